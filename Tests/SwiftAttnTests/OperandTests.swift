import Testing

@testable import SwiftAttn

@Suite struct OperandTests {
  @Test(
    "steps from one batch element to the next",
    arguments: [
      ([2, 3, 4, 5, 6], [0, 120, 240, 360, 480, 600]), ([3, 1, 4, 5, 6], [0, 120, 240]), ([1, 1, 4, 5, 6], [0]),
      ([4, 5, 6], [0]),
    ])
  func batches(_ shape: [Int], _ offsets: [Int]) {
    let operand = Operand(fakeView(shape), alignedTo: Shape(shape), as: Float.self)
    #expect(offsets.indices.map { operand.offset(batch: $0) } == offsets)
    #expect(operand.batchStep == (offsets.count > 1 ? offsets[1] : 0))
  }

  @Test("an operand that is the same for all batch elements has no steps")
  func broadcast() {
    let operand = Operand(fakeView([1, 4, 5, 6]), alignedTo: Shape([3, 4, 5, 6]), as: Float.self)
    #expect((0..<3).allSatisfy { operand.offset(batch: $0) == 0 } && operand.batchStep == 0)
  }
}
