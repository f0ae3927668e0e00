/// The kernels of one instruction set for one element type. Every kernel works on one block, allocates nothing, knows
/// no threads, and may be called from any thread on distinct memory.
public struct KernelTable<Element: AttentionElement>: Sendable {
  public let products: ProductKernels<Element>
  public let layout: LayoutKernels<Element>
  public let scores: ScoreKernels<Element>
  public let masking: MaskingKernels<Element>

  public init(
    products: ProductKernels<Element>, layout: LayoutKernels<Element>,
    scores: ScoreKernels<Element>, masking: MaskingKernels<Element>
  ) {
    self.products = products
    self.layout = layout
    self.scores = scores
    self.masking = masking
  }
}

/// Matrix products on register tiles.
public struct ProductKernels<Element: AttentionElement>: Sendable {
  public typealias Product = BlockProduct<Element>
  public typealias Panel = PanelScores<Element>
  public typealias MultiplyTransposed = @Sendable (Product, LaneMatrix<Element>) -> Int

  /// C = start + A * B.
  public let multiply: @Sendable (Product) -> Void
  /// C = start + A * B^T for as many rows as it returns: `b` is the first of B's rows, one for every lane, and
  /// `bStride` their distance. Along the depth, whole vectors, both A and B are contiguous. If those are not all rows,
  /// the matrix becomes B^T. Nil where the registers are too few for it.
  public let multiplyTransposed: MultiplyTransposed?
  /// The same, skipping the pairs that the panel's visibility hides instead of multiplying by their zero, for blocks in
  /// which a hidden operand is not finite. Rows of C are head dims, p is a key, lanes are queries.
  public let multiplyVisibleKeys: @Sendable (Product, Panel) -> Void
  /// Likewise with keys in the rows of C, queries in p and head dims in the lanes.
  public let multiplyVisibleQueries: @Sendable (Product, Panel) -> Void

  public init(
    multiply: @escaping @Sendable (Product) -> Void,
    multiplyTransposed: MultiplyTransposed?,
    multiplyVisibleKeys: @escaping @Sendable (Product, Panel) -> Void,
    multiplyVisibleQueries: @escaping @Sendable (Product, Panel) -> Void
  ) {
    self.multiply = multiply
    self.multiplyTransposed = multiplyTransposed
    self.multiplyVisibleKeys = multiplyVisibleKeys
    self.multiplyVisibleQueries = multiplyVisibleQueries
  }
}

/// Moves between the caller's rows and the workspace's lanes.
public struct LayoutKernels<Element: AttentionElement>: Sendable {
  public typealias Rows = ScatteredRows<Element>
  public typealias Matrix = LaneMatrix<Element>

  /// matrix[column][row] = rows[row][column] * factor; zero in the lanes past the last row.
  public let gather: @Sendable (Rows, Matrix, Element) -> Void
  /// rows[row][column] = matrix[column][row] * factors[row].
  public let scatter: @Sendable (Matrix, Rows, UnsafePointer<Element>) -> Void
  /// matrix[row][column] = rows[row][column] * factor; zero up to the next whole vector of columns.
  public let pack: @Sendable (Rows, Matrix, Element) -> Void
  /// Turns pairs of each row's numbers by their angles.
  public let rotate: @Sendable (RotaryRows<Element>) -> Void

  public init(
    gather: @escaping @Sendable (Rows, Matrix, Element) -> Void,
    scatter: @escaping @Sendable (Matrix, Rows, UnsafePointer<Element>) -> Void,
    pack: @escaping @Sendable (Rows, Matrix, Element) -> Void,
    rotate: @escaping @Sendable (RotaryRows<Element>) -> Void
  ) {
    self.gather = gather
    self.scatter = scatter
    self.pack = pack
    self.rotate = rotate
  }
}

/// What happens to scores between the matrix products, and its derivative.
public struct ScoreKernels<Element: AttentionElement>: Sendable {
  public typealias Rows = ScatteredRows<Element>
  public typealias Panel = PanelScores<Element>

  /// scores *= factor.
  public let scale: @Sendable (Panel, Element) -> Void
  /// scores[key][lane] += log2(e) * bias[lane][key]; the rows' columns are the panel's keys firstKey ..< endKey.
  public let addBias: @Sendable (Rows, Panel) -> Void
  /// bias gradient: rows[lane][key] += scores[key][lane], where `scores` holds dS. Rows and columns may share memory
  /// (offsets that repeat, stride 0): then it is their sum that is added.
  public let addBiasGradient: @Sendable (Rows, Panel) -> Void
  /// Scores become probabilities relative to the running reference; the state is rescaled where the reference moved.
  public let softmax: @Sendable (Panel, SoftmaxState<Element>) -> Void
  /// The same for a few queries, with the keys in the lanes; bits as of `softmax`.
  public let softmaxRows: @Sendable (RowScores<Element>, SoftmaxState<Element>) -> Void
  /// Scores become P; dP - delta becomes dS.
  public let softmaxGradient: @Sendable (Panel, SoftmaxGradient<Element>) -> Void
  /// sums[lane] = sum over `rows` of a[row][lane] * b[row][lane], for whole vectors of lanes: (a, b, rows, vectors,
  /// sums).
  public let dotColumns:
    @Sendable (LaneMatrix<Element>, LaneMatrix<Element>, Int, Int, UnsafeMutablePointer<Element>) -> Void

  public init(
    scale: @escaping @Sendable (Panel, Element) -> Void,
    addBias: @escaping @Sendable (Rows, Panel) -> Void,
    addBiasGradient: @escaping @Sendable (Rows, Panel) -> Void,
    softmax: @escaping @Sendable (Panel, SoftmaxState<Element>) -> Void,
    softmaxRows: @escaping @Sendable (RowScores<Element>, SoftmaxState<Element>) -> Void,
    softmaxGradient: @escaping @Sendable (Panel, SoftmaxGradient<Element>) -> Void,
    dotColumns:
      @escaping @Sendable (
        LaneMatrix<Element>, LaneMatrix<Element>, Int, Int, UnsafeMutablePointer<Element>
      ) -> Void
  ) {
    self.scale = scale
    self.addBias = addBias
    self.addBiasGradient = addBiasGradient
    self.softmax = softmax
    self.softmaxRows = softmaxRows
    self.softmaxGradient = softmaxGradient
    self.dotColumns = dotColumns
  }
}

/// Reading masks, and finding blocks that need care.
public struct MaskingKernels<Element: AttentionElement>: Sendable {
  public typealias Words = UnsafeMutablePointer<UInt64>

  /// Each row's word keeps the bits whose mask byte is true. Bit `leading + j` is that of column j; the bits before
  /// stay as they are. (rows, leading, words), up to 64 bits in all.
  public let hideByMask: @Sendable (ScatteredRows<UInt8>, Int, Words) -> Void
  /// The same for elements of the bias that are not -inf.
  public let hideByBias: @Sendable (ScatteredRows<Element>, Int, Words) -> Void
  /// Is any of rows x columns elements NaN or infinite: (first, row stride, column stride, rows, columns).
  public let hasNonFinite: @Sendable (UnsafePointer<Element>, Int, Int, Int, Int) -> Bool

  public init(
    hideByMask: @escaping @Sendable (ScatteredRows<UInt8>, Int, Words) -> Void,
    hideByBias: @escaping @Sendable (ScatteredRows<Element>, Int, Words) -> Void,
    hasNonFinite: @escaping @Sendable (UnsafePointer<Element>, Int, Int, Int, Int) -> Bool
  ) {
    self.hideByMask = hideByMask
    self.hideByBias = hideByBias
    self.hasNonFinite = hasNonFinite
  }
}
