import AttentionBlocks
import Testing

@testable import SwiftAttn

@Suite struct MaskingTests {
  @Test("words keep the bits of true bytes, whatever true is, at any stride, behind leading keys", arguments: tiers)
  func hideByMask(_ tier: InstructionSet) {
    let bytes = (0..<200).map { UInt8($0 % 3 == 0 ? 0 : $0 % 5 == 0 ? 255 : 1) }
    hide(by: bytes, Float.kernels(tier).masking.hideByMask) { $0 != 0 }
  }

  @Test("words keep the bits of bias that is not -inf", arguments: tiers)
  func hideByBias(_ tier: InstructionSet) {
    hideByBias(tier, Float.self)
    hideByBias(tier, Double.self)
  }

  private func hideByBias<T: ComputeElement>(_ tier: InstructionSet, _: T.Type) {
    let bias = (0..<200).map { i -> T in i % 4 == 0 ? -.infinity : i % 7 == 0 ? .nan : i % 9 == 0 ? .infinity : -3 }
    hide(by: bias, T.kernels(tier).masking.hideByBias) { $0 != -.infinity }
  }

  private func hide<T>(
    by values: [T], _ kernel: (ScatteredRows<T>, Int, UnsafeMutablePointer<UInt64>) -> Void, _ isKept: (T) -> Bool
  ) {
    var values = values
    let offsets = [100, 101, 101, 98, 101]
    let before: [UInt64] = [~0, ~0, 0x5555_5555_5555_5555, ~0, ~0]
    for (stride, count, leading) in [(1, 64, 0), (1, 63, 1), (1, 62, 2), (1, 1, 0), (1, 0, 2), (0, 64, 0), (-1, 64, 0)]
    {
      var words = before
      values.withUnsafeMutableBufferPointer {
        kernel(
          ScatteredRows(
            base: $0.baseAddress!, offsets: offsets, stride: stride, rows: offsets.count, columns: count), leading,
          &words)
      }
      for (row, offset) in offsets.enumerated() {
        for bit in 0..<64 {
          let column = bit - leading
          let expected = column < 0 || column < count && isKept(values[offset + column * stride])
          let isSet = words[row] >> UInt64(bit) & 1 == 1
          #expect(
            isSet == (expected && before[row] >> UInt64(bit) & 1 == 1), "stride \(stride), row \(row), bit \(bit)")
        }
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
