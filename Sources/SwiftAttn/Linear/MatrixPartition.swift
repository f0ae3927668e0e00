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
  let threads: Int

  /// Rows of a block are a multiple of those of the main tile.
  private static var rowUnit: Int { 8 }
  /// No block is lower, but for the last, where there are rows enough.
  private static var lowestBlock: Int { 24 }
  /// Packing a strip again for another block of rows costs as much as this many rows of it; packing the rows again for
  /// another strip as much as this many of its columns.
  private static var packingRows: Double { 8 }
  private static var packingColumns: Double { 6 }

  /// The widths of strips and the number of blocks of rows that keep `threads` threads evenly busy without packing too
  /// much. No strip is wider than `widest` columns.
  init(rows: Int, columns: Int, panel: Int, widest: Int, threads: Int) {
    var best = (
      score: 0.0,
      partition: Self(rows: rows, columns: columns, columnsPerStrip: columns, rowsPerBlock: rows, threads: threads)
    )
    var width = panel
    // Strips wider than C are all alike.
    while width <= widest, width < columns + panel {
      for wanted in 1...max(1, min(8 * threads, rows / Self.lowestBlock)) {
        let candidate = Self(
          rows: rows, columns: columns, columnsPerStrip: min(width, columns),
          rowsPerBlock: min(Self.rounded((rows + wanted - 1) / wanted), rows), threads: threads)
        let score = candidate.evenness / (1 + candidate.packing)
        if score > best.score { best = (score, candidate) }
      }
      width += panel
    }
    self = best.partition
  }

  private init(rows: Int, columns: Int, columnsPerStrip: Int, rowsPerBlock: Int, threads: Int) {
    self.rows = rows
    self.columns = columns
    self.columnsPerStrip = columnsPerStrip
    self.rowsPerBlock = rowsPerBlock
    self.threads = threads
  }

  private static func rounded(_ rows: Int) -> Int { (rows + rowUnit - 1) / rowUnit * rowUnit }

  private var strips: Int { (columns + columnsPerStrip - 1) / columnsPerStrip }
  private var wholeStrips: Int { columns / columnsPerStrip }
  private var blocks: Int { (rows + rowsPerBlock - 1) / rowsPerBlock }

  /// Whether each thread has the same number of blocks of rows; then the queue goes block by block, else strip by
  /// strip.
  private var sharesOutRows: Bool { blocks % threads == 0 }

  /// Threads own their blocks of rows, all strips of them, or else their strips, and draw what does not share out: the
  /// rest of the strips, the last of which may be narrow and evens the queue's end.
  var items: WorkItems {
    let strips = sharesOutRows ? strips : wholeStrips - wholeStrips % threads
    return WorkItems(owned: strips * blocks, shared: (self.strips - strips) * blocks)
  }

  private var packing: Double {
    Self.packingRows / Double(rowsPerBlock) + Self.packingColumns / Double(columnsPerStrip)
  }

  /// The share of their time in which the threads have an item, as each takes the next one when it has finished one.
  /// Items count as if the last block of a strip were as high as the others.
  private var evenness: Double {
    // How much of a strip the last one is, where it is narrower.
    let part = Double(columns - wholeStrips * columnsPerStrip) / Double(columnsPerStrip)
    let (rounds, late) = (wholeStrips * blocks).quotientAndRemainder(dividingBy: threads)
    var narrow = part > 0 ? blocks : 0
    var span = Double(rounds)
    if late > 0 {
      // While some threads have one more item of a whole strip, the others have narrow ones.
      span += 1
      if part > 0 { narrow -= min(narrow, (threads - late) * Int(1 / part)) }
    }
    span += Double((narrow + threads - 1) / threads) * part
    let work = (Double(wholeStrips) + part) * Double(rows) / Double(rowsPerBlock)
    return work / Double(threads) / span
  }

  func item(_ index: Int) -> Item {
    let (strip, block) = sharesOutRows ? (index % strips, index / strips) : (index / blocks, index % blocks)
    return Item(
      rows: block * rowsPerBlock..<min((block + 1) * rowsPerBlock, rows),
      columns: strip * columnsPerStrip..<min((strip + 1) * columnsPerStrip, columns))
  }
}
