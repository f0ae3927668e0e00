import AttentionBlocks

/// The rows of one block, panel by panel: where each lies in every operand, and which keys it may see.
struct BlockRows<Element: ComputeElement> {
  typealias Offsets = UnsafeMutablePointer<Int>

  private(set) var block = RowBlock(batch: 0, headKV: 0, firstHead: 0, headCount: 1, firstRow: 0, count: 0)
  /// Row r may see keys first[r] ..< end[r] as far as causality and lengths go.
  let firstKey: Offsets
  let endKey: Offsets
  /// Element offset of each row in the mask and the bias.
  let maskOffsets: Offsets
  let biasOffsets: Offsets
  /// Bit j of [row]: the row sees key j of the present key block.
  let seen: UnsafeMutablePointer<UInt64>
  /// The same for kernels: bit j of [j / 32][row].
  let words: UnsafeMutablePointer<UInt32>
  let capacity: Int

  static func bytes(capacity: Int) -> Int {
    4 * Workspace.bytes(capacity, of: Int.self) + Workspace.bytes(capacity, of: UInt64.self)
      + Workspace.bytes(2 * capacity, of: UInt32.self)
  }

  init(capacity: Int, _ workspace: inout Workspace) {
    self.capacity = capacity
    firstKey = workspace.take(capacity, of: Int.self)
    endKey = workspace.take(capacity, of: Int.self)
    maskOffsets = workspace.take(capacity, of: Int.self)
    biasOffsets = workspace.take(capacity, of: Int.self)
    seen = workspace.take(capacity, of: UInt64.self)
    words = workspace.take(2 * capacity, of: UInt32.self)
  }

  var count: Int { block.count }
  var vectors: Int { Element.vectors(count) }

  mutating func load(_ block: RowBlock, _ plan: AttentionPlan<Element>) {
    self.block = block
    if let mask = plan.mask { offsets(of: mask, into: maskOffsets) }
    if let bias = plan.bias { offsets(of: bias, into: biasOffsets) }
    let keys = plan.keyLengths[block.batch]
    firstKey.update(repeating: 0, count: count)
    if plan.causalOffset == nil && !plan.queryLengths.areGiven {
      endKey.update(repeating: plan.leadingKeys + keys, count: count)
      return
    }
    let queries = plan.queryLengths[block.batch]
    forEachRow { row, query, _ in
      let seen = min(keys, max(query + (plan.causalOffset ?? plan.geometry.seqLenK) + 1, 0))
      endKey[row] = query < queries ? plan.leadingKeys + seen : 0
    }
  }

  /// Where each row starts in an operand.
  func offsets<T>(of operand: Operand<T>, into offsets: Offsets) {
    let batch = operand.offset(batch: block.batch)
    if block.headCount == 1 {
      let first = batch + block.firstHead * operand.head + block.firstRow * operand.row
      for row in 0..<count { offsets[row] = first &+ row &* operand.row }
    } else {
      forEachRow { row, query, head in offsets[row] = batch &+ head &* operand.head &+ query &* operand.row }
    }
  }

  /// body(row of the block, query, query head)
  private func forEachRow(_ body: (Int, Int, Int) -> Void) {
    guard count > 0 else { return }
    var query = block.firstRow / block.headCount
    var member = block.firstRow % block.headCount
    for row in 0..<count {
      body(row, query, block.firstHead + member)
      member += 1
      if member == block.headCount {
        member = 0
        query += 1
      }
    }
  }
}

/// A panel of a block: the lanes `lane ..< lane + rows`, and the bounds of what its rows may see.
struct Panel {
  let lane: Int
  let rows: Int
  let vectors: Int
  private(set) var leastFirst = Int.max
  private(set) var mostFirst = 0
  private(set) var leastEnd = Int.max
  private(set) var mostEnd = 0
  /// Whether forward's accumulator holds anything yet.
  var hasOutput = false

  @inline(__always)
  init<Element>(_ index: Int, of rows: BlockRows<Element>) {
    let lanes = BlockSize.vectorsPerPanel * Element.lanes
    lane = index * lanes
    self.rows = max(0, min(lanes, rows.count - lane))
    vectors = Element.vectors(self.rows)
    for row in lane..<lane + self.rows {
      leastFirst = min(leastFirst, rows.firstKey[row])
      mostFirst = max(mostFirst, rows.firstKey[row])
      leastEnd = min(leastEnd, rows.endKey[row])
      mostEnd = max(mostEnd, rows.endKey[row])
    }
  }
}
