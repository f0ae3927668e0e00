import AttentionBlocks
import Testing

@testable import SwiftAttn

@Suite struct MultiplyTransposedTests {
  static let capable = tiers.filter { $0 == .avx512 }

  @Test("the first rows of A B^T are those of A B, bit for bit, and B^T is left for the others", arguments: capable)
  func firstRows(_ tier: InstructionSet) throws {
    for rows in 1...10 {
      for vectors in 1...4 {
        for tiles in [0, 1, 3] {
          try check(tier, Float.self, rows: rows, vectors: vectors, depth: tiles * Float.lanes)
          try check(tier, Double.self, rows: rows, vectors: vectors, depth: tiles * Double.lanes)
        }
      }
    }
  }

  @Test("only targets with few registers lack it")
  func presence() {
    for tier in tiers {
      #expect((Float.kernels(tier).products.multiplyTransposed != nil) == Self.capable.contains(tier))
      let names = (0..<KernelNames.count(tier)).map {
        KernelNames.id($0, tier).withBytes { String(decoding: $0, as: UTF8.self) }
      }
      #expect(names.contains("f32.multiply_transposed.8x1x16.\(tier.name)") == Self.capable.contains(tier))
      #expect(names.contains("f64.has_non_finite.1x1x8.\(tier.name)"))
      #expect(Set(names).count == names.count)
    }
  }

  /// Rows of A, B and C are wider than they need to be; what is between them must survive in C and in the packed
  /// matrix.
  private func check<T: ComputeElement>(_ tier: InstructionSet, _: T.Type, rows: Int, vectors: Int, depth: Int) throws {
    let multiplyTransposed = try #require(T.kernels(tier).products.multiplyTransposed)
    var numbers = Numbers(seed: UInt64(rows * 1000 + vectors * 100 + depth))
    let lanes = vectors * T.lanes
    let a: [T] = numbers.array(rows * (depth + 1) + 1)
    let b: [T] = numbers.array(lanes * (depth + 2) + 1)
    let startRow: [T] = numbers.array(lanes)
    var transposed = [T](repeating: 7, count: (depth + 1) * (lanes + 5))
    for p in 0..<depth { for lane in 0..<lanes { transposed[p * (lanes + 5) + lane] = b[lane * (depth + 2) + p] } }
    for kind in 0..<3 {
      let before: [T] = numbers.array(rows * (lanes + 3))
      var (c, expected) = (before, before)
      var packed = [T](repeating: 7, count: transposed.count)
      var done = 0
      startRow.withUnsafeBufferPointer { startRow in
        func product(_ b: [T], _ bStride: Int, _ rows: Int, _ c: LaneMatrix<T>) -> BlockProduct<T> {
          BlockProduct(
            a: a, rowStride: depth + 1, depthStride: 1, rows: rows, depth: depth, vectors: vectors, b: b,
            bStride: bStride, c: c.base, cStride: c.stride,
            start: [.zero, .accumulator, .row(startRow.baseAddress!)][kind])
        }
        withMatrix(&c, stride: lanes + 3) { c in
          withMatrix(&packed, stride: lanes + 5) { packed in
            done = multiplyTransposed(product(b, depth + 2, rows, c), packed)
          }
        }
        withMatrix(&expected, stride: lanes + 3) { expected in
          T.kernels(tier).products.multiply(product(transposed, lanes + 5, done, expected))
        }
      }
      #expect((1...min(rows, 8)).contains(done))
      #expect(c == expected, "\(tier.name) \(rows) x \(vectors) x \(depth), start \(kind)")
      #expect(packed == (done < rows ? transposed : [T](repeating: 7, count: packed.count)))
    }
  }
}
