import AttentionBlocks
import Testing

@testable import SwiftAttn

/// Every tier of the registry that this processor runs: a new one is tested without an edit here.
let tiers = InstructionSet.allCases.filter(\.isSupported)

/// Reproducible numbers in -1 ..< 1.
struct Numbers {
  private var state: UInt64

  init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

  mutating func next<T: BinaryFloatingPoint>() -> T {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return T(Double(state >> 11) / Double(1 << 52) - 1)
  }

  mutating func array<T: BinaryFloatingPoint>(_ count: Int) -> [T] { (0..<count).map { _ in next() } }
}

/// A workspace matrix over an array, for the time of a call.
func withMatrix<T: AttentionElement, R>(
  _ values: inout [T], stride: Int, _ body: (LaneMatrix<T>) throws -> R
) rethrows -> R {
  try values.withUnsafeMutableBufferPointer { try body(LaneMatrix(base: $0.baseAddress!, stride: stride)) }
}

/// Words as the kernels read them: bit j of [j / 32][lane].
func visibilityWords(_ words: [UInt64]) -> [UInt32] {
  words.map { UInt32(truncatingIfNeeded: $0) } + words.map { UInt32(truncatingIfNeeded: $0 >> 32) }
}
