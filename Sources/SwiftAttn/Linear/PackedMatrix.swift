import AttentionBlocks

/// A matrix B packed once for many products: its columns in panels of 4 vectors, one panel after the other, each
/// [depth][lane]; the last panel has as many vectors as are left. Each has room for whole tiles of the depth, which
/// transposing writes.
///
/// A product that packs B itself does so at each call, because B may have changed. That costs as much as 3.5 rows of
/// the product, and a single row waits for lines that are far apart. Here they lie in the order in which the tiles read
/// them. Unchecked because of the pointer: the memory is only read, and is the caller's.
package struct PackedMatrix<Element: ComputeElement>: @unchecked Sendable {
  private let base: UnsafePointer<Element>
  /// B's.
  private let rows: Int
  private let columns: Int

  /// `base` is where `pack` put a matrix of this shape.
  package init(base: UnsafePointer<Element>, rows: Int, columns: Int) {
    self.base = base
    self.rows = rows
    self.columns = columns
  }

  package static func elements(rows: Int, columns: Int) -> Int { Element.padded(rows) * Element.padded(columns) }

  /// This and the columns of `other` as one, nil unless that is what packing both at once gives.
  func beside(_ other: Self) -> Self? {
    guard columns % StripPanels<Element>.columns(isPacked: true) == 0, rows == other.rows,
      other.base == base + Self.elements(rows: rows, columns: columns)
    else { return nil }
    return Self(base: base, rows: rows, columns: columns + other.columns)
  }

  /// The panel of a strip of columns that begins with `column`, from B's row `row` on.
  func panel(_ panel: StripPanels<Element>.Panel, column: Int, row: Int) -> LaneMatrix<Element> {
    let stride = panel.vectors * Element.lanes
    let first = (column + panel.firstVector * Element.lanes) * Element.padded(rows)
    return LaneMatrix(base: UnsafeMutablePointer(mutating: base + (first + row * stride)), stride: stride)
  }

  /// Packs B, a part of its rows at a time, so that they stay in the first-level cache if its columns are transposed.
  package static func pack(
    _ b: StridedMatrix<Element>, to target: UnsafeMutablePointer<Element>, _ layout: LayoutKernels<Element>
  ) throws(AttentionError) {
    let rowsOfPart = 256
    let bytes = Workspace.bytes(rowsOfPart, of: Int.self)
    guard var workspace = Workspace(bytes: bytes, participant: 0) else { throw .noMemory }
    let copying = LaneCopy(layout: layout, offsets: workspace.take(rowsOfPart, of: Int.self))
    let packed = Self(base: target, rows: b.rows, columns: b.columns)
    for panel in StripPanels<Element>(columns: b.columns, isPacked: true) {
      let column = panel.firstVector * Element.lanes
      for row in stride(from: 0, to: b.rows, by: rowsOfPart) {
        let part = StridedMatrix(
          base: b.element(row, column), rows: min(rowsOfPart, b.rows - row),
          columns: min(panel.vectors * Element.lanes, b.columns - column), rowStride: b.rowStride,
          columnStride: b.columnStride)
        copying.copy(part, to: packed.panel(panel, column: 0, row: row))
      }
    }
  }
}
