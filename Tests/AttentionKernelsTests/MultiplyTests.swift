import AttentionBlocks
import Testing

@testable import SwiftAttn

@Suite struct MultiplyTests {
  @Test("C = A B for every number of rows, vectors and depths", arguments: tiers)
  func product(_ tier: InstructionSet) {
    for rows in [1, 2, 3, 5, 6, 7, 8, 9, 13, 17] {
      for vectors in 1...7 {
        for depth in [0, 1, 2, 31] {
          check(tier, Float.self, rows: rows, vectors: vectors, depth: depth)
          check(tier, Double.self, rows: rows, vectors: vectors, depth: depth)
        }
      }
    }
  }

  /// A is read transposed and with gaps; C has a wider stride than it has lanes, and the gap must survive.
  private func check<T: ComputeElement>(_ tier: InstructionSet, _: T.Type, rows: Int, vectors: Int, depth: Int) {
    var numbers = Numbers(seed: UInt64(rows * 1000 + vectors * 100 + depth))
    let lanes = vectors * T.lanes
    let a: [T] = numbers.array(2 * rows * max(depth, 1))
    let b: [T] = numbers.array(max(depth, 1) * lanes)
    let startRow: [T] = numbers.array(lanes)
    for kind in 0..<3 {
      let before: [T] = numbers.array(rows * (lanes + 3))
      var c = before
      withMatrix(&c, stride: lanes + 3) { matrix in
        startRow.withUnsafeBufferPointer { startRow in
          T.kernels(tier).products.multiply(
            BlockProduct(
              a: a, rowStride: 2, depthStride: 2 * rows, rows: rows, depth: depth, vectors: vectors,
              b: b, bStride: lanes, c: matrix.base, cStride: matrix.stride,
              start: [.zero, .accumulator, .row(startRow.baseAddress!)][kind]))
        }
      }
      for row in 0..<rows {
        for lane in 0..<lanes + 3 {
          let at = row * (lanes + 3) + lane
          guard lane < lanes else {
            #expect(c[at] == before[at], "the gap of C was written")
            continue
          }
          var sum = [0, Double(before[at]), Double(startRow[lane])][kind]
          for p in 0..<depth { sum += Double(a[2 * (p * rows + row)]) * Double(b[p * lanes + lane]) }
          let bound = Double(T.ulpOfOne) * Double(depth + 2)
          #expect(abs(Double(c[at]) - sum) <= bound, "\(tier.name) \(rows)x\(vectors)x\(depth) at \(row), \(lane)")
        }
      }
    }
  }

  @Test("tiers with FMA give the same bits")
  func sameBits() {
    var results: [[Float]] = []
    for tier in tiers where tier != .baseline {
      var numbers = Numbers(seed: 7)
      let a: [Float] = numbers.array(13 * 40)
      let b: [Float] = numbers.array(40 * 64)
      var c = [Float](repeating: 0, count: 13 * 64)
      withMatrix(&c, stride: 64) { matrix in
        Float.kernels(tier).products.multiply(
          BlockProduct(
            a: a, rowStride: 40, depthStride: 1, rows: 13, depth: 40, vectors: 4, b: b, bStride: 64, c: matrix.base,
            cStride: 64, start: .zero))
      }
      results.append(c)
    }
    for result in results.dropFirst() { #expect(result == results[0]) }
  }

  @Test("hidden pairs are skipped, not multiplied by zero", arguments: tiers)
  func visiblePairs(_ tier: InstructionSet) {
    let lanes = Float.lanes
    // Key 0 is NaN and hidden from all lanes but lane 3.
    let words = (0..<lanes).map { $0 == 3 ? UInt64(0b11) : 0b10 }
    let a: [Float] = [.nan, 2]
    let p = [Float](repeating: 0.5, count: 2 * lanes)
    var c = [Float](repeating: 1, count: lanes)
    visibilityWords(words).withUnsafeBufferPointer { visibility in
      withMatrix(&c, stride: lanes) { matrix in
        Float.kernels(tier).products.multiplyVisibleKeys(
          BlockProduct(
            a: a, rowStride: 1, depthStride: 1, rows: 1, depth: 2, vectors: 1, b: p, bStride: lanes, c: matrix.base,
            cStride: lanes, start: .accumulator),
          PanelScores(
            scores: matrix, firstKey: 0, endKey: 2, vectors: 1, visibility: visibility.baseAddress,
            visibilityStride: lanes))
      }
    }
    for lane in 0..<lanes {
      if lane == 3 { #expect(c[lane].isNaN) } else { #expect(c[lane] == 2) }
    }
  }
}
