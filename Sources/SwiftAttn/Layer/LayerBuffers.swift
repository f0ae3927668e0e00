import AttentionBlocks
import CSwiftAttnShims

/// What the steps of a layer hand to each other, in one piece of memory: the heads of q, k and v, what attention made
/// of them, and lse; or the gradients of these.
///
/// Rows of q, k and v that come from the same tokens lie side by side, as one product writes them; a row then is a
/// whole and odd number of cache lines. Rows a power of two apart would share a few sets of the first-level cache.
///
/// Tried and dropped: tokens next to each other, number by number, so that nothing between the steps need be
/// transposed. Transposing fell from 4.6 to 1.6 % of (1,128), but the multiplications that then read across rows cost
/// more: as quick at (1,128), 8 points less of the peak at (1,512).
struct LayerBuffers<Element: ComputeElement> {
  let query: TensorView
  let key: TensorView
  let value: TensorView
  /// (B..., Sq, Hq * Dv): the heads of attention's output side by side.
  let merged: TensorView
  /// (B..., Hq, Sq)
  let lse: TensorView

  /// (B..., Hq, Sq, D), (B..., Hkv, Sk, D) and (B..., Hkv, Sk, Dv), with the leading keys.
  func heads(_ shape: LayerShape) -> (query: TensorView, key: TensorView, value: TensorView) {
    (
      query.withHeadAxis(heads: shape.headsQ), key.withHeadAxis(heads: shape.headsKV),
      value.withHeadAxis(heads: shape.headsKV)
    )
  }

  @inline(never)
  init(_ memory: UnsafeMutableRawPointer, _ shape: LayerShape) {
    let sizes = LayerBufferSizes<Element>(shape)
    let base = memory.assumingMemoryBound(to: Element.self)
    func view(at offset: Int, length: Int, width: Int, row: Int) -> TensorView {
      TensorView(data: base + offset, type: Element.type, rows: length, width: width, row: row, of: shape.batch)
    }
    let (q, k, v) = (shape.queryWidth, shape.keyWidth, shape.valueWidth)
    let (len, lenK) = (shape.seqLenQ, shape.seqLenK)
    if shape.isFused {
      query = view(at: 0, length: len, width: q, row: sizes.queryRow)
      key = view(at: q, length: len, width: k, row: sizes.queryRow)
      value = view(at: q + k, length: len, width: v, row: sizes.queryRow)
    } else {
      query = view(at: 0, length: len, width: q, row: sizes.queryRow)
      key = view(at: sizes.queries, length: lenK, width: k, row: sizes.keyRow)
      value = view(at: sizes.queries + k, length: lenK, width: v, row: sizes.keyRow)
    }
    merged = view(at: sizes.queries + sizes.keys, length: len, width: shape.mergedWidth, row: sizes.mergedRow)
    lse = view(at: sizes.queries + sizes.keys + sizes.merged, length: shape.headsQ, width: len, row: len)
  }
}

/// How many elements each part takes.
struct LayerBufferSizes<Element: ComputeElement> {
  let queryRow: Int
  let keyRow: Int
  let mergedRow: Int
  private(set) var queries = 0
  private(set) var keys = 0
  private(set) var merged = 0
  private(set) var lse = 0
  /// Whether a size was too large to count.
  private(set) var overflows = false

  init(_ shape: LayerShape) {
    let keyWidth = shape.keyWidth + shape.valueWidth
    queryRow = Self.row(shape.isFused ? shape.queryWidth + keyWidth : shape.queryWidth)
    keyRow = shape.isFused ? 0 : Self.row(keyWidth)
    mergedRow = Self.row(shape.mergedWidth)
    queries = product(shape.batches, shape.seqLenQ, queryRow)
    keys = product(shape.batches, shape.seqLenK, keyRow)
    merged = product(shape.batches, shape.seqLenQ, mergedRow)
    lse = product(shape.batches, shape.seqLenQ, shape.headsQ)
  }

  /// At least one element's; nil when it is too large to count.
  var bytes: Int? {
    // Four parts below a quarter of what an Int counts, in elements of 8 bytes or fewer.
    let limit = Int.max >> 6
    guard !overflows, queries < limit, keys < limit, merged < limit, lse < limit else { return nil }
    return (1 + queries + keys + merged + lse) * MemoryLayout<Element>.stride
  }

  /// `width` in whole cache lines, an odd number of them.
  private static func row(_ width: Int) -> Int {
    let lines = Element.vectors(width)
    return (lines | 1) * Element.lanes
  }

  private mutating func product(_ a: Int, _ b: Int, _ c: Int) -> Int {
    let (first, tooMany) = a.multipliedReportingOverflow(by: b)
    let (second, far) = first.multipliedReportingOverflow(by: c)
    if tooMany || far { overflows = true }
    return second
  }
}

extension TensorView {
  /// Dense batches of `rows` rows that are `row` elements apart: (B..., rows, width).
  @inline(never)
  fileprivate init<Element>(
    data: UnsafeMutablePointer<Element>, type: ElementType, rows: Int, width: Int, row: Int, of batch: Shape
  ) {
    let size = MemoryLayout<Element>.stride
    var shape = Shape(rank: batch.rank + 2)
    var strides = shape
    (shape[batch.rank + 1], strides[batch.rank + 1]) = (width, size)
    (shape[batch.rank], strides[batch.rank]) = (rows, row &* size)
    var step = rows &* row &* size
    for axis in Swift.stride(from: batch.rank - 1, through: 0, by: -1) {
      (shape[axis], strides[axis]) = (batch[axis], step)
      step &*= max(batch[axis], 1)
    }
    self.init(data: data, type: type, shape: shape, strides: strides)
  }
}
