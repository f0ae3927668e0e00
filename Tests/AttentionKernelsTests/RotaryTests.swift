import AttentionBlocks
import Foundation
import Testing

@testable import SwiftAttn

@Suite struct RotaryTests {
  /// Numbers of a row, of which the first 2 * pairs turn, and from one row to the next.
  private static let shapes = [
    (pairs: 0, width: 3, stride: 4), (1, 2, 2), (1, 5, 9), (3, 6, 6), (8, 16, 20), (16, 32, 32), (17, 40, 41),
    (33, 66, 80),
  ]

  @Test("each pair turns by its angle, and nothing else changes", arguments: tiers, [false, true])
  func turn(_ tier: InstructionSet, _ interleaved: Bool) {
    for shape in Self.shapes {
      for rows in [0, 1, 3] {
        check(tier, Float.self, rows, shape, interleaved)
        check(tier, Double.self, rows, shape, interleaved)
      }
    }
  }

  private func check<T: ComputeElement>(
    _ tier: InstructionSet, _: T.Type, _ rows: Int, _ shape: (pairs: Int, width: Int, stride: Int), _ interleaved: Bool
  ) {
    let angles = (0..<shape.pairs).map { 0.3 + 1.7 * Double($0) }
    var numbers = Numbers(seed: UInt64(shape.pairs * 7 + rows))
    let before: [T] = numbers.array(rows * shape.stride)
    var after = before
    rotate(tier, &after, rows, shape.stride, interleaved, angles)
    var expected = before.map(Double.init)
    for row in 0..<rows {
      for (t, angle) in angles.enumerated() {
        let first = row * shape.stride + (interleaved ? 2 * t : t)
        let second = first + (interleaved ? 1 : shape.pairs)
        let (a, b) = (Double(before[first]), Double(before[second]))
        expected[first] = a * Foundation.cos(angle) - b * Foundation.sin(angle)
        expected[second] = a * Foundation.sin(angle) + b * Foundation.cos(angle)
      }
      for column in 2 * shape.pairs..<shape.stride {
        let at = row * shape.stride + column
        #expect(after[at] == before[at], "\(tier.name) \(shape): number \(column) was changed")
      }
    }
    for (x, y) in zip(after, expected) {
      #expect(abs(Double(x) - y) <= 4 * Double(T.ulpOfOne), "\(tier.name) \(shape) \(interleaved)")
    }
  }

  private func rotate<T: ComputeElement>(
    _ tier: InstructionSet, _ values: inout [T], _ rows: Int, _ stride: Int, _ interleaved: Bool, _ angles: [Double]
  ) {
    let cosines = angles.map { T(Foundation.cos($0)) }
    let sines = angles.map { T(Foundation.sin($0)) }
    withMatrix(&values, stride: stride) { matrix in
      cosines.withUnsafeBufferPointer { cosines in
        sines.withUnsafeBufferPointer { sines in
          T.kernels(tier).layout.rotate(
            RotaryRows(
              base: matrix.base, rows: rows, stride: stride, interleaved: interleaved,
              angles: (count: angles.count, cosines: cosines.baseAddress!, sines: sines.baseAddress!)))
        }
      }
    }
  }

  @Test("a turn by opposite angles turns back", arguments: tiers, [false, true])
  func turnBack(_ tier: InstructionSet, _ interleaved: Bool) {
    var numbers = Numbers(seed: 4)
    let before: [Double] = numbers.array(2 * 24)
    var values = before
    let angles = (0..<11).map { 0.7 * Double($0 + 1) }
    rotate(tier, &values, 2, 24, interleaved, angles)
    #expect(values != before)
    rotate(tier, &values, 2, 24, interleaved, angles.map { -$0 })
    for (x, y) in zip(values, before) { #expect(abs(x - y) < 1e-15) }
  }
}
