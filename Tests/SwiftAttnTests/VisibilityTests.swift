import AttentionBlocks
import Testing

@testable import SwiftAttn

@Suite struct VisibilityTests {
  /// What a panel sees of each key block, against a direct reading of causality, lengths and mask.
  @Test(
    "words, ranges and skips agree with each pair judged alone",
    arguments: [
      Causal.none, .topLeft, .bottomRight,
    ])
  func agreesWithPairs(_ causal: Causal) throws {
    for (seqLenQ, seqLenK, heads) in [(1, 1, 1), (5, 200, 2), (130, 64, 1), (97, 65, 1), (100, 1, 3)] {
      for masked in [false, true] {
        try check(causal, seqLenQ: seqLenQ, seqLenK: seqLenK, heads: heads, keyLength: seqLenK, masked: masked)
        try check(causal, seqLenQ: seqLenQ, seqLenK: seqLenK, heads: heads, keyLength: seqLenK / 2, masked: masked)
        try check(causal, seqLenQ: seqLenQ, seqLenK: seqLenK, heads: heads, keyLength: 0, masked: masked)
      }
    }
  }

  private func check(
    _ causal: Causal, seqLenQ: Int, seqLenK: Int, heads: Int, keyLength: Int, masked: Bool
  ) throws {
    let isMasked = { (query: Int, key: Int) in masked && (query * 7 + key * 3) % 5 == 0 }
    let bytes = (0..<seqLenQ * seqLenK).map { !isMasked($0 / seqLenK, $0 % seqLenK) }
    let mask = try Tensor(bytes, shape: [seqLenQ, seqLenK])
    let lengths = try Tensor([keyLength], shape: [1])
    try mask.withView(.bool) { (mask: TensorView) throws(AttentionError) in
      try lengths.withView(.int64) { (lengths: TensorView) throws(AttentionError) in
        var arguments = AttentionArguments(
          query: fakeView([1, heads, seqLenQ, 4]), key: fakeView([1, 1, seqLenK, 4]),
          value: fakeView([1, 1, seqLenK, 4]))
        arguments.causal = causal
        arguments.keyLengths = lengths
        if masked { arguments.mask = mask }
        let plan = try AttentionPlan<Float>(arguments)
        compare(plan) { query, key in
          let limit = causal == .none ? seqLenK : causal == .topLeft ? query + 1 : query + 1 + seqLenK - seqLenQ
          return key < keyLength && key < limit && !isMasked(query, key)
        }
      }
    }
  }

  private func compare(_ plan: AttentionPlan<Float>, _ sees: (Int, Int) -> Bool) {
    let partition = Partition(plan.geometry, rowsPerBlock: BlockSize.vectorsPerBlock * Float.lanes)
    var workspace = Workspace(bytes: BlockRows<Float>.bytes(capacity: partition.rowsPerBlock), participant: 0)!
    var rows = BlockRows<Float>(capacity: partition.rowsPerBlock, &workspace)
    let visibility = Visibility(plan, Float.kernels(.baseline).masking)
    for item in 0..<partition.forwardCount {
      let block = partition.forwardBlock(item)
      rows.load(block, plan)
      for panel in [Panel(0, of: rows), Panel(1, of: rows)] where panel.rows > 0 {
        for start in stride(from: 0, to: plan.geometry.seqLenK, by: BlockSize.keys) {
          let count = min(BlockSize.keys, plan.geometry.seqLenK - start)
          let keys = visibility.keys(start: start, count: count, panel: panel, rows: rows)
          for row in panel.lane..<panel.lane + panel.rows {
            let query = (block.firstRow + row) / block.headCount
            for key in 0..<count {
              let inRange = key >= keys.first && key < keys.end
              let word = key < 32 ? rows.words[row] : rows.words[rows.capacity + row]
              let found = inRange && (!keys.hidesPairs || word >> UInt32(key % 32) & 1 == 1)
              #expect(found == sees(query, start + key), "query \(query), key \(start + key)")
            }
          }
          #expect(keys.isEmpty || keys.first % 2 == 0, "softmax needs an even first key")
        }
      }
    }
  }
}
