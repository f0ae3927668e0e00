import Testing

@testable import SwiftAttn

@Suite struct MemoryOverlapTests {
  private func view(_ offset: Int, _ shape: [Int], _ strides: [Int]) -> TensorView {
    TensorView(
      data: UnsafeMutableRawPointer(bitPattern: 0x10000 + offset), type: .float32, shape: Shape(shape),
      strides: Shape(strides))
  }

  /// Every byte of a view, one by one.
  private func bytes(_ view: TensorView) -> [Int] {
    var addresses = [Int(bitPattern: view.data)]
    for axis in 0..<view.rank {
      addresses = addresses.flatMap { base in (0..<view.shape[axis]).map { base + $0 * view.strides[axis] } }
    }
    return addresses.flatMap { base in (0..<4).map { base + $0 } }
  }

  @Test("agrees with comparing every byte")
  func agreesWithBytes() {
    var views: [TensorView] = []
    for offset in [-16, 0, 4, 8, 12, 24, 96, 100] {
      views += [
        view(offset, [2, 3, 2], [48, 16, 4]), view(offset, [2, 3, 2], [48, 16, 8]), view(offset, [6], [16]),
        view(offset, [6], [-16]), view(offset, [3, 2], [-8, 48]), view(offset, [0, 5], [4, 4]), view(offset, [], []),
        view(offset, [2, 2, 2], [4, 8, 16]), view(offset, [1, 3], [999, 12]),
      ]
    }
    for a in views {
      let own = bytes(a)
      #expect(MemoryOverlap.isInjective(a) == (Set(own).count == own.count))
      for b in views {
        #expect(MemoryOverlap.exists(a, b) == !Set(own).isDisjoint(with: bytes(b)))
      }
    }
  }

  @Test("two elements at one place are found")
  func notInjective() {
    #expect(!MemoryOverlap.isInjective(view(0, [2, 2], [0, 4])))
    #expect(!MemoryOverlap.isInjective(view(0, [3, 3], [8, 4])))
    #expect(!MemoryOverlap.isInjective(view(0, [2, 3], [4, 4])))
    #expect(!MemoryOverlap.isInjective(view(0, [2], [2])))
    #expect(MemoryOverlap.isInjective(view(0, [2, 2], [-4, 8])))
  }

  @Test("the thirds of a packed array do not overlap, at sizes that cannot be enumerated")
  func packedThirds() {
    let strides = [1 << 30, 3 << 12, 1 << 12, 256, 4]
    let thirds = (0..<3).map { view($0 << 12, [4, 1 << 16, 1, 16, 64], strides) }
    #expect(!MemoryOverlap.exists(thirds[0], thirds[1]))
    #expect(!MemoryOverlap.exists(thirds[0], thirds[2]))
    // Single elements between the first and the second third's rows: beyond the 16 * 256 bytes that the first uses.
    #expect(!MemoryOverlap.exists(thirds[0], view(2 << 12, [1 << 16], [3 << 12])))
    #expect(MemoryOverlap.exists(thirds[0], view((1 << 12) - 4, [1 << 16], [3 << 12])))
    #expect(MemoryOverlap.exists(thirds[1], thirds[1]))
  }

  @Test("extents beyond the address space are refused")
  func extents() {
    #expect(MemoryExtent(view(0, [1 << 40, 1 << 40], [1 << 40, 4])) == nil)
    #expect(MemoryExtent(view(0, [2], [Int.min])) == nil)
    #expect(MemoryExtent(view(0, [3], [1 << 60])) == nil)
    #expect(MemoryExtent(view(0, [0, 1 << 62], [4, 4])) != nil)
  }
}
