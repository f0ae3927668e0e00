/// C[i][lane] = start + sum over p of A(i, p) * B[p][lane], for `rows` rows and `vectors` vectors of lanes.
///
/// Every matrix product of attention has this shape. A is read one scalar at a time with any strides, so it may be the
/// caller's own memory; B and C have contiguous lanes. Each element is summed in order of p, whatever the register
/// tile.
public struct BlockProduct<Element: AttentionElement> {
  public var a: UnsafePointer<Element>
  public var aRowStride: Int
  public var aDepthStride: Int
  public var b: UnsafePointer<Element>
  public var bStride: Int
  public var c: UnsafeMutablePointer<Element>
  public var cStride: Int
  public var rows: Int
  public var vectors: Int
  public var depth: Int
  /// Where each sum begins.
  public var start: Start

  public enum Start {
    case zero
    /// C as it is: the product is added to it.
    case accumulator
    /// The same lanes for every row of C.
    case row(UnsafePointer<Element>)

    /// The same for C's later lanes.
    @inlinable @inline(__always)
    public func lanes(from lane: Int) -> Self {
      if case .row(let row) = self { .row(row + lane) } else { self }
    }
  }

  public init(
    a: UnsafePointer<Element>, rowStride: Int, depthStride: Int, rows: Int, depth: Int, vectors: Int,
    b: UnsafePointer<Element>, bStride: Int, c: UnsafeMutablePointer<Element>, cStride: Int, start: Start
  ) {
    self.a = a
    aRowStride = rowStride
    aDepthStride = depthStride
    self.b = b
    self.bStride = bStride
    self.c = c
    self.cStride = cStride
    self.rows = rows
    self.vectors = vectors
    self.depth = depth
    self.start = start
  }
}

extension BlockProduct {
  /// The same for later lanes.
  @inlinable @inline(__always)
  public func columns(from lane: Int) -> Self {
    var part = self
    part.b += lane
    part.c += lane
    part.start = start.lanes(from: lane)
    return part
  }

  /// The same for later rows.
  @inlinable @inline(__always)
  public func rows(from row: Int) -> Self {
    var part = self
    part.a += row &* aRowStride
    part.c += row &* cStride
    return part
  }
}

/// Rows of the caller's memory (a block of queries, of gradients, of bias, of a mask) that lie at irregular places,
/// because the heads of a group are packed into one block: row r starts at `base + offsets[r]`, its elements are
/// `stride` apart.
public struct ScatteredRows<Element> {
  public var base: UnsafeMutablePointer<Element>
  public var offsets: UnsafePointer<Int>
  public var stride: Int
  public var rows: Int
  public var columns: Int

  public init(
    base: UnsafeMutablePointer<Element>, offsets: UnsafePointer<Int>, stride: Int, rows: Int, columns: Int
  ) {
    self.base = base
    self.offsets = offsets
    self.stride = stride
    self.rows = rows
    self.columns = columns
  }
}

/// A workspace matrix, mostly with queries in the lanes: element (row, lane) at `base[row * stride + lane]`.
public struct LaneMatrix<Element: AttentionElement> {
  public var base: UnsafeMutablePointer<Element>
  public var stride: Int

  public init(base: UnsafeMutablePointer<Element>, stride: Int) {
    self.base = base
    self.stride = stride
  }
}

/// The scores of one panel of queries against some keys of a block, and the running softmax state of those queries.
public struct PanelScores<Element: AttentionElement> {
  /// [key][lane]; keys `firstKey ..< endKey` of the block are in use.
  public var scores: LaneMatrix<Element>
  public var firstKey: Int
  public var endKey: Int
  /// Vectors of query lanes in use, 1...3.
  public var vectors: Int
  /// Bit j of word [j / 32][lane]: may the lane's query attend to key j of the block. Nil: all may.
  public var visibility: UnsafePointer<UInt32>?
  /// Lanes between the two halves of `visibility`.
  public var visibilityStride: Int

  public init(
    scores: LaneMatrix<Element>, firstKey: Int, endKey: Int, vectors: Int,
    visibility: UnsafePointer<UInt32>?, visibilityStride: Int
  ) {
    self.scores = scores
    self.firstKey = firstKey
    self.endKey = endKey
    self.vectors = vectors
    self.visibility = visibility
    self.visibilityStride = visibilityStride
  }
}

/// The scores of a few queries against some keys of a block, with the keys in the lanes.
public struct RowScores<Element: AttentionElement> {
  /// [row][key - firstKey], in whole vectors; `keys` of them are in use.
  public var scores: LaneMatrix<Element>
  public var rows: Int
  public var firstKey: Int
  public var keys: Int
  /// As in `PanelScores`, a row being a lane.
  public var visibility: UnsafePointer<UInt32>?
  public var visibilityStride: Int

  public init(
    scores: LaneMatrix<Element>, rows: Int, firstKey: Int, keys: Int, visibility: UnsafePointer<UInt32>?,
    visibilityStride: Int
  ) {
    self.scores = scores
    self.rows = rows
    self.firstKey = firstKey
    self.keys = keys
    self.visibility = visibility
    self.visibilityStride = visibilityStride
  }

  /// May the row's query attend to key j of the block.
  @inlinable
  public func sees(row: Int, key: Int) -> Bool {
    guard let visibility else { return true }
    return (visibility[(key &>> 5) &* visibilityStride &+ row] &>> UInt32(truncatingIfNeeded: key & 31)) & 1 != 0
  }
}

/// The running softmax of some queries: reference m of each row (base-2 logarithm units), row sum l and the accumulator
/// o = [d][lane], or [row][d] where keys are in the lanes.
public struct SoftmaxState<Element: AttentionElement> {
  /// A whole number; no score seen so far exceeds it minus `headroom`. -inf where nothing has been seen.
  public var reference: UnsafeMutablePointer<Element>
  /// log2 of the number of keys, rounded up: keeps the sum of the probabilities, and with it every partial output, from
  /// exceeding what the normalised output can be, so that values near overflow do not overflow on the way.
  public var headroom: Element
  public var sum: UnsafeMutablePointer<Element>
  public var output: LaneMatrix<Element>
  public var outputDims: Int

  public init(
    reference: UnsafeMutablePointer<Element>, headroom: Element, sum: UnsafeMutablePointer<Element>,
    output: LaneMatrix<Element>, outputDims: Int
  ) {
    self.reference = reference
    self.headroom = headroom
    self.sum = sum
    self.output = output
    self.outputDims = outputDims
  }
}

/// What the softmax's derivative needs besides the scores of a panel.
public struct SoftmaxGradient<Element: AttentionElement> {
  /// dP - delta on entry, dS on return; laid out as the scores, which become P.
  public var gradient: LaneMatrix<Element>
  /// Per lane: lse in base-2 units; +inf for rows that attend to nothing.
  public var logSumExp: UnsafePointer<Element>

  public init(gradient: LaneMatrix<Element>, logSumExp: UnsafePointer<Element>) {
    self.gradient = gradient
    self.logSumExp = logSumExp
  }
}

/// Rows at one position, the heads of a token, whose first 2 * pairs numbers turn in pairs: pair t by the angle whose
/// cosine and sine are given. It is (2t, 2t + 1) when interleaved, else (t, t + pairs). Rows are `stride` apart, their
/// numbers 1.
public struct RotaryRows<Element: AttentionElement> {
  public var base: UnsafeMutablePointer<Element>
  public var rows: Int
  public var stride: Int
  public var pairs: Int
  public var interleaved: Bool
  public var cosines: UnsafePointer<Element>
  public var sines: UnsafePointer<Element>

  public init(
    base: UnsafeMutablePointer<Element>, rows: Int, stride: Int, interleaved: Bool,
    angles: (count: Int, cosines: UnsafePointer<Element>, sines: UnsafePointer<Element>)
  ) {
    self.base = base
    self.rows = rows
    self.stride = stride
    self.interleaved = interleaved
    (pairs, cosines, sines) = angles
  }
}
