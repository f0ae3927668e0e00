import AttentionBlocks

/// Copies parts of matrices into rows of whole vectors. `offsets` has room for as many as a part has rows or columns.
struct LaneCopy<Element: ComputeElement> {
  let layout: LayoutKernels<Element>
  let offsets: UnsafeMutablePointer<Int>

  /// Copies part of B so that its columns are lanes, whichever of its dimensions is contiguous.
  func copy(_ b: StridedMatrix<Element>, to panel: LaneMatrix<Element>) {
    guard b.columnStride != 1 else { return copyRows(of: b, to: panel) }
    for column in 0..<b.columns { offsets[column] = column * b.columnStride }
    layout.gather(
      ScatteredRows(base: b.base, offsets: offsets, stride: b.rowStride, rows: b.columns, columns: b.rows), panel, 1)
  }

  func copyRows(of matrix: StridedMatrix<Element>, to target: LaneMatrix<Element>) {
    for row in 0..<matrix.rows { offsets[row] = row * matrix.rowStride }
    layout.pack(
      ScatteredRows(
        base: matrix.base, offsets: offsets, stride: matrix.columnStride, rows: matrix.rows, columns: matrix.columns),
      target, 1)
  }
}
