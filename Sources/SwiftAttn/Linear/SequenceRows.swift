import AttentionBlocks

/// The rows of all sequences of a batch, (B..., S, width), as matrices: one of B * S rows where the strides allow it,
/// else one a batch element.
struct SequenceRows<Element: ComputeElement> {
  /// Those of the first batch element.
  private let first: StridedMatrix<Element>
  private let operand: Operand<Element>
  private let batches: Int
  private let isFolded: Bool

  /// Rows `skipping...` of each sequence of `view`, whose memory has been judged.
  @inline(never)
  init(_ view: TensorView, skipping: Int = 0) {
    let shape = view.shape
    let rows = view.withHeadAxis(heads: 1)
    operand = Operand(rows, alignedTo: rows.shape, as: Element.self)
    var count = 1
    for axis in 0..<shape.rank - 2 { count *= shape[axis] }
    batches = count
    let length = shape.last(2) - skipping
    // A stride of 0 where there is one row or column: then it is never taken.
    first = StridedMatrix(
      base: operand.base + skipping * operand.row, rows: length, columns: shape.last(1),
      rowStride: operand.row, columnStride: shape.last(1) == 1 ? 1 : operand.column)
    isFolded = skipping == 0 && view.foldsRows
  }

  private init(_ first: StridedMatrix<Element>, like other: Self) {
    self.first = first
    operand = other.operand
    batches = other.batches
    isFolded = other.isFolded
  }

  var width: Int { first.columns }
  /// Of all sequences; there may be none, of any number of sequences.
  var count: Int { first.rows * batches }
  /// In how many matrices the rows lie; `other` must be cut alike. Without rows in none, whatever the number of
  /// sequences.
  func groups(with other: Self) -> Int {
    first.rows == 0 ? 0 : isFolded && other.isFolded ? min(batches, 1) : batches
  }

  @inline(never)
  func matrix(_ group: Int, of groups: Int) -> StridedMatrix<Element> {
    var matrix = first
    if groups < batches {
      matrix.rows *= batches
      if matrix.rowStride == 0 { matrix.rowStride = operand.batchStep }
    } else {
      matrix.base += operand.offset(batch: group)
    }
    return matrix
  }

  /// This and the columns of `other` as one, nil unless they lie side by side.
  @inline(never)
  func joined(_ other: Self) -> Self? {
    guard isFolded == other.isFolded, operand.hasStrides(of: other.operand) else { return nil }
    return first.beside(other.first).map { Self($0, like: self) }
  }

  func isSame(as other: Self) -> Bool {
    first.isSame(as: other.first) && width == other.width && isFolded == other.isFolded
      && operand.hasStrides(of: other.operand)
  }
}

extension StridedMatrix {
  /// This and the columns of `other` as one, nil unless they lie side by side.
  func beside(_ other: Self) -> Self? {
    guard other.base == base + columns * columnStride, other.rowStride == rowStride, other.rows == rows,
      other.columnStride == columnStride
    else { return nil }
    var joined = self
    joined.columns += other.columns
    return joined
  }

  /// This and the rows of `other` as one, nil unless they lie one above the other.
  func above(_ other: Self) -> Self? { transposed.beside(other.transposed)?.transposed }
}

extension TensorView {
  /// (B..., S, H * W) as (B..., H, S, W).
  func withHeadAxis(heads: Int) -> TensorView {
    let width = heads == 0 ? 0 : shape.last(1) / heads
    let (row, column) = (strides.last(2), strides.last(1))
    return TensorView(
      data: data, type: type,
      shape: shape.dropping(2).appending(heads).appending(shape.last(2)).appending(width),
      strides: strides.dropping(2).appending(width &* column).appending(row).appending(column))
  }

  /// Whether all rows of all sequences are equally far apart.
  fileprivate var foldsRows: Bool {
    let (shape, strides) = (shape, strides)
    var step: Int? = shape.last(2) == 1 ? nil : strides.last(2)
    var rows = shape.last(2)
    for axis in stride(from: rank - 3, through: 0, by: -1) where shape[axis] != 1 {
      guard let row = step else {
        step = strides[axis]
        rows = shape[axis]
        continue
      }
      guard strides[axis] == row &* rows else { return false }
      rows *= shape[axis]
    }
    return true
  }
}
