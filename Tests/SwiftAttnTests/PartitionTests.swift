import Testing

@testable import SwiftAttn

@Suite struct PartitionTests {
  private func geometry(batches: Int, headsQ: Int, headsKV: Int, seqLenQ: Int) throws -> Geometry {
    try withArguments(shapes([batches, headsQ, seqLenQ, 4], [batches, headsKV, 5, 4], [batches, headsKV, 5, 4])) {
      try Geometry($0)
    }
  }

  @Test(
    "every row of every head is in exactly one block, in forward's and backward's queue",
    arguments: [
      (1, 1, 1, 1), (2, 3, 3, 96), (1, 8, 2, 97), (3, 4, 1, 500), (1, 5, 5, 0), (0, 2, 2, 7),
    ])
  func coversOnce(batches: Int, headsQ: Int, headsKV: Int, seqLenQ: Int) throws {
    let geometry = try geometry(batches: batches, headsQ: headsQ, headsKV: headsKV, seqLenQ: seqLenQ)
    let partition = Partition(geometry, rowsPerBlock: 96)
    var forward: [[Int]] = Array(repeating: [], count: batches * headsKV)
    for item in 0..<partition.forwardCount {
      let block = partition.forwardBlock(item)
      #expect(block.firstHead == block.headKV * geometry.groupSize && block.headCount == geometry.groupSize)
      forward[block.batch * headsKV + block.headKV] += block.firstRow..<block.firstRow + block.count
    }
    for rows in forward { #expect(rows.sorted() == Array(0..<geometry.rowsPerHead)) }

    for threads in [1, 2, 3, 7] {
      let queue = BackwardPartition(partition, threads: threads, sumsOverRows: true)
      var blocks: [[Int]] = Array(repeating: [], count: partition.heads)
      for index in 0..<queue.items.count {
        switch queue.item(index) {
        case .wholeHead(let head): blocks[head] += 0..<partition.blocksPerHead
        case .block(let head, let index): blocks[head].append(index)
        }
      }
      // In order within each head: that is what makes the sums the same for any number of threads.
      for head in blocks { #expect(head == Array(0..<partition.blocksPerHead)) }
      #expect(queue.sharedHeads < threads || partition.heads == 0, "heads that share out evenly are kept whole")
    }
  }

  @Test("heads that share out evenly are owned, in forward and in backward", arguments: [1, 2, 3, 5, 20])
  func ownHeads(threads: Int) throws {
    let geometry = try geometry(batches: 2, headsQ: 8, headsKV: 8, seqLenQ: 200)
    let partition = Partition(geometry, rowsPerBlock: 96)
    let (whole, rest) = (16 / threads * threads, 16 % threads)
    #expect(partition.forwardItems(threads: threads) == WorkItems(owned: 3 * whole, shared: 3 * rest))
    let queue = BackwardPartition(partition, threads: threads, sumsOverRows: true)
    #expect(queue.items == WorkItems(owned: whole, shared: 3 * rest))
  }

  @Test("dear blocks come first under a causal mask")
  func dearFirst() throws {
    let partition = Partition(try geometry(batches: 1, headsQ: 1, headsKV: 1, seqLenQ: 1000), rowsPerBlock: 96)
    let firstRows = (0..<partition.forwardCount).map { partition.forwardBlock($0).firstRow }
    #expect(firstRows == firstRows.sorted(by: >))
  }
}
