/// Some rows of one key/value head: the unit of work. Row r is query r / headCount of head firstHead + r % headCount,
/// so the heads of a group are packed into one block and share its keys and values.
struct RowBlock: Equatable, Sendable {
  var batch: Int
  var headKV: Int
  var firstHead: Int
  var headCount: Int
  var firstRow: Int
  var count: Int
}

/// Cuts the problem into row blocks. Pure geometry: no threads, no memory. Which rows share a block changes no result,
/// because rows do not mix in forward and are summed in order in backward.
struct Partition: Sendable {
  let heads: Int
  let headsKV: Int
  let groupSize: Int
  let rowsPerHead: Int
  let rowsPerBlock: Int

  init(_ geometry: Geometry, rowsPerBlock: Int) {
    heads = geometry.batches * geometry.headsKV
    headsKV = geometry.headsKV
    groupSize = geometry.groupSize
    rowsPerHead = geometry.rowsPerHead
    self.rowsPerBlock = rowsPerBlock
  }

  /// At least one, so that the gradients of a key that no query sees are written.
  var blocksPerHead: Int { max((rowsPerHead + rowsPerBlock - 1) / rowsPerBlock, 1) }

  var rowsOfLastBlock: Int { rowsPerHead - (blocksPerHead - 1) * rowsPerBlock }

  func block(head: Int, index: Int) -> RowBlock {
    let headKV = head % headsKV
    return RowBlock(
      batch: head / headsKV, headKV: headKV, firstHead: headKV * groupSize, headCount: groupSize,
      firstRow: index * rowsPerBlock, count: min(rowsPerBlock, rowsPerHead - index * rowsPerBlock))
  }

  /// Forward's queue: blocks of one head follow each other, so that its keys and values stay in the cache. The last
  /// block comes first: under a causal mask it costs the most, and dear items early keep the end of the queue even.
  var forwardCount: Int { heads * blocksPerHead }

  /// Heads that share out evenly, which one thread each has to itself; all draw the blocks of the others.
  func wholeHeads(threads: Int) -> Int { heads - heads % threads }

  func forwardItems(threads: Int) -> WorkItems {
    let owned = wholeHeads(threads: threads) * blocksPerHead
    return WorkItems(owned: owned, shared: forwardCount - owned)
  }

  func forwardBlock(_ item: Int) -> RowBlock {
    block(head: item / blocksPerHead, index: blocksPerHead - 1 - item % blocksPerHead)
  }
}

/// Backward's queue. The blocks of a head add to the same key and value gradients in order; a thread that takes a whole
/// head need not wait for anyone. Heads that do not share out evenly come last, block by block: their blocks are taken
/// by all threads, each key block waiting its turn (`TurnCounters`).
struct BackwardPartition: Sendable {
  let partition: Partition
  let wholeHeads: Int

  /// Without key and value gradients (`sumsOverRows`) no block waits for another, so heads need not be kept whole.
  init(_ partition: Partition, threads: Int, sumsOverRows: Bool) {
    self.partition = partition
    wholeHeads = sumsOverRows ? partition.wholeHeads(threads: threads) : 0
  }

  var sharedHeads: Int { partition.heads - wholeHeads }
  var items: WorkItems { WorkItems(owned: wholeHeads, shared: sharedHeads * partition.blocksPerHead) }

  enum Item: Equatable {
    case wholeHead(Int)
    case block(head: Int, index: Int)
  }

  func item(_ index: Int) -> Item {
    guard index >= wholeHeads else { return .wholeHead(index) }
    let rest = index - wholeHeads
    return .block(head: wholeHeads + rest % sharedHeads, index: rest / sharedHeads)
  }
}
