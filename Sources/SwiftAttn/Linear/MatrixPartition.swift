import AttentionBlocks

/// Cuts C into strips of columns and blocks of rows: the work items of a matrix product. Pure geometry.
struct MatrixPartition: Equatable, Sendable {
  struct Item: Equatable {
    var rows: Range<Int>
    var columns: Range<Int>
  }

  let rows: Int
  let columns: Int
  let columnsPerStrip: Int
  let rowsPerBlock: Int

  /// Rows of a block are a multiple of the rows of every tile.
  private static var rowUnit: Int { 24 }
  /// Packing a strip again for another block of rows costs as much as this many rows of it; packing the rows again for
  /// another strip as much as this many of its columns.
  private static var packingRows: Double { 8 }
  private static var packingColumns: Double { 6 }

  /// The widths of strips and the number of blocks of rows that keep `threads` threads evenly busy without packing too
  /// much. No strip is wider than `widest` columns.
  init(rows: Int, columns: Int, panel: Int, widest: Int, threads: Int) {
    self.rows = rows
    self.columns = columns
    var best = (score: 0.0, rows: rows, columns: columns)
    var width = panel
    // Strips wider than C are all alike.
    while width <= widest, width < columns + panel {
      let columnsPerStrip = min(width, columns)
      let strips = Double(columns) / Double(columnsPerStrip)
      for wanted in 1...max(1, min(8 * threads, rows / Self.rowUnit)) {
        let rowsPerBlock = min(Self.rounded((rows + wanted - 1) / wanted), rows)
        let share = strips * (Double(rows) / Double(rowsPerBlock)) / Double(threads)
        let packing = Self.packingRows / Double(rowsPerBlock) + Self.packingColumns / Double(columnsPerStrip)
        let score = share / share.rounded(.up) / (1 + packing)
        if score > best.score { best = (score, rowsPerBlock, width) }
      }
      width += panel
    }
    rowsPerBlock = best.rows
    columnsPerStrip = best.columns
  }

  private static func rounded(_ rows: Int) -> Int { (rows + rowUnit - 1) / rowUnit * rowUnit }

  private var strips: Int { (columns + columnsPerStrip - 1) / columnsPerStrip }
  private var blocks: Int { (rows + rowsPerBlock - 1) / rowsPerBlock }
  var count: Int { strips * blocks }

  /// Blocks of one strip follow each other; the last strip, which may be narrow, comes last and evens the queue's end.
  func item(_ index: Int) -> Item {
    let (strip, block) = (index / blocks, index % blocks)
    return Item(
      rows: block * rowsPerBlock..<min((block + 1) * rowsPerBlock, rows),
      columns: strip * columnsPerStrip..<min((strip + 1) * columnsPerStrip, columns))
  }
}
