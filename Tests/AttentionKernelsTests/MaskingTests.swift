import AttentionBlocks
import Testing

@testable import SwiftAttn

@Suite struct MaskingTests {
  @Test("one bit per true byte, whatever true is, at any stride", arguments: tiers)
  func maskWord(_ tier: InstructionSet) {
    let bytes = (0..<200).map { UInt8($0 % 3 == 0 ? 0 : $0 % 5 == 0 ? 255 : 1) }
    for (step, count) in [(1, 64), (1, 63), (1, 1), (3, 64), (0, 64), (-1, 64)] {
      let start = step < 0 ? 100 : 2
      let word = bytes.withUnsafeBufferPointer {
        Float.kernels(tier).masking.maskWord($0.baseAddress! + start, step, count)
      }
      for i in 0..<64 {
        let expected = i < count && bytes[start + i * step] != 0
        #expect((word >> UInt64(i) & 1 == 1) == expected, "stride \(step), count \(count), bit \(i)")
      }
    }
  }

  @Test("one bit per bias that is not -inf", arguments: tiers)
  func biasWord(_ tier: InstructionSet) {
    biasWord(tier, Float.self)
    biasWord(tier, Double.self)
  }

  private func biasWord<T: ComputeElement>(_ tier: InstructionSet, _: T.Type) {
    let bias = (0..<140).map { i -> T in i % 4 == 0 ? -.infinity : i % 7 == 0 ? .nan : i % 9 == 0 ? .infinity : -3 }
    for (step, count) in [(1, 64), (1, 10), (2, 64)] {
      let word = bias.withUnsafeBufferPointer { T.kernels(tier).masking.biasWord($0.baseAddress!, step, count) }
      for i in 0..<64 {
        #expect((word >> UInt64(i) & 1 == 1) == (i < count && bias[i * step] != -.infinity))
      }
    }
  }

  @Test("NaN and infinity are found in every place and nowhere else", arguments: tiers)
  func nonFinite(_ tier: InstructionSet) {
    let (rows, columns) = (3, 19)
    for step in [1, 2] {
      var values = [Double](repeating: .greatestFiniteMagnitude, count: rows * columns * step)
      func found() -> Bool {
        Double.kernels(tier).masking.hasNonFinite(values, columns * step, step, rows, columns)
      }
      #expect(!found())
      for place in 0..<rows * columns {
        for bad in [Double.nan, .infinity, -.infinity] {
          values[place * step] = bad
          #expect(found(), "at \(place)")
        }
        values[place * step] = -1
      }
      if step == 2 {
        values[1] = .nan
        #expect(!found(), "elements between the strides do not count")
      }
    }
  }
}
