import Synchronization
import Testing

@testable import SwiftAttn

/// Every tier of the registry that this processor runs.
let tiers = InstructionSet.allCases.filter(\.isSupported)

private let settings = Mutex(())

/// body() while no other test changes a setting of the process (tier, number of threads): for tests that change one, or
/// that compare bits, which another tier in one of two calls would change.
func takingTurns(_ body: () throws -> Void) rethrows {
  try settings.withLock { _ in try body() }
}

/// body() in this tier.
func using(_ tier: InstructionSet, _ body: () throws -> Void) throws {
  try takingTurns {
    try Dispatch.choose(tier)
    defer { Dispatch.chooseDefault() }
    try body()
  }
}

/// The bits of body() with each number of threads are those of the first.
func expectSameBits<T: Equatable>(threads: [Int], _ body: () throws -> [T]) throws {
  try takingTurns {
    defer { _ = ThreadCount.set(0) }
    var first: [T]?
    for count in threads {
      #expect(ThreadCount.set(count))
      let result = try body()
      #expect(result == first ?? result, "\(count) threads give other bits than \(threads[0])")
      first = first ?? result
    }
  }
}

/// call() throws an error whose description contains the text.
func expectError(_ text: String, _ call: () throws(AttentionError) -> Void) {
  do throws(AttentionError) {
    try call()
    Issue.record("accepted, instead of: \(text)")
  } catch {
    #expect(error.description.contains(text))
  }
}

/// Query, key and value of these shapes without memory of their own: enough to judge, never to compute.
func shapes(_ query: [Int], _ key: [Int], _ value: [Int], type: ElementType = .float32) -> [TensorView] {
  [query, key, value].map { fakeView($0, type: type) }
}

/// A row-major view at an aligned address that nothing may read.
func fakeView(_ shape: [Int], type: ElementType = .float32, address: Int = 0x1000) -> TensorView {
  var strides = Shape(rank: shape.count)
  var step = type == .float64 || type == .int64 ? 8 : type == .bool ? 1 : 4
  for axis in shape.indices.reversed() {
    strides[axis] = step
    step &*= max(shape[axis], 1)
  }
  return TensorView(
    data: UnsafeMutableRawPointer(bitPattern: address), type: type, shape: Shape(shape), strides: strides)
}

func withArguments<R>(
  _ views: [TensorView], _ change: (inout AttentionArguments) -> Void = { _ in },
  _ body: (borrowing AttentionArguments) throws -> R
) rethrows -> R {
  var arguments = AttentionArguments(query: views[0], key: views[1], value: views[2])
  change(&arguments)
  return try body(arguments)
}

/// Reproducible tensors with elements in -1 ..< 1.
struct Tensors {
  private var state: UInt64

  init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

  mutating func next<T: ComputeElement>(_ shape: [Int]) throws -> Tensor<T> {
    var elements: [T] = []
    for _ in 0..<shape.reduce(1, *) {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      elements.append(T(Double(state >> 11) / Double(1 << 52) - 1))
    }
    return try Tensor(elements, shape: shape)
  }
}
