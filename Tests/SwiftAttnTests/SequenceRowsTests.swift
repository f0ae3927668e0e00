import Testing

@testable import SwiftAttn

@Suite struct SequenceRowsTests {
  /// Shapes (B..., S, W) and strides in elements.
  private static let layouts: [(shape: [Int], strides: [Int], isOne: Bool)] = [
    ([3, 4], [4, 1], true), ([3, 4], [-9, 2], true), ([1, 4], [99, 1], true), ([3, 1], [5, 99], true),
    ([2, 3, 4], [12, 4, 1], true), ([2, 3, 4], [13, 4, 1], false), ([2, 3, 4], [0, 4, 1], false),
    ([2, 3, 4], [0, 0, 1], true), ([2, 3, 4], [-12, -4, 1], true), ([2, 3, 4], [4, 8, 1], false),
    ([5, 1, 4], [7, 99, 1], true), ([1, 3, 4], [99, 6, 1], true), ([5, 1, 4], [0, 99, 1], true),
    ([2, 3, 5, 4], [60, 20, 4, 1], true), ([2, 3, 5, 4], [20, 40, 4, 1], false), ([2, 1, 5, 4], [20, 7, 4, 1], true),
    ([2, 3, 1, 4], [12, 4, 99, 1], true), ([2, 3, 1, 4], [4, 8, 99, 1], false), ([2, 3, 1, 4], [12, 0, 99, 1], false),
    ([2, 1, 3, 1, 2, 1, 4], [24, 9, 8, 9, 4, 9, 1], true),
  ]

  @Test("all rows of all sequences, as one matrix where their strides allow it", arguments: layouts.indices)
  func rows(_ index: Int) {
    let (shape, strides, isOne) = Self.layouts[index]
    let rank = shape.count
    var view = fakeView(shape, address: 1 << 20)
    for axis in 0..<rank { view.strides[axis] = 4 * strides[axis] }
    for skipped in [0, 1] where shape[rank - 2] > skipped {
      let sequences = SequenceRows<Float>(view, skipping: skipped)
      let groups = sequences.groups(with: sequences)
      let batches = shape.dropLast(2).reduce(1, *)
      #expect(groups == (isOne && skipped == 0 ? 1 : batches))
      var addresses: [Int] = []
      for group in 0..<groups {
        let matrix = sequences.matrix(group, of: groups)
        #expect(matrix.columns == shape[rank - 1])
        for row in 0..<matrix.rows {
          for column in 0..<matrix.columns { addresses.append(Int(bitPattern: matrix.element(row, column))) }
        }
      }
      #expect(addresses == self.addresses(shape, strides, skipping: skipped), "\(shape) \(strides)")
    }
  }

  /// In row-major order.
  private func addresses(_ shape: [Int], _ strides: [Int], skipping skipped: Int) -> [Int] {
    var places = [1 << 20]
    for axis in shape.indices {
      let first = axis == shape.count - 2 ? skipped : 0
      places = places.flatMap { place in (first..<shape[axis]).map { place + 4 * $0 * strides[axis] } }
    }
    return places
  }

  @Test("two operands are one matrix only together")
  func pairs() {
    let dense = SequenceRows<Float>(fakeView([2, 3, 4]))
    var gaps = fakeView([2, 3, 5])
    gaps.strides[0] += 8
    #expect(dense.groups(with: dense) == 1)
    #expect(dense.groups(with: SequenceRows(gaps)) == 2)
    #expect(SequenceRows<Float>(gaps).groups(with: dense) == 2)
    #expect(dense.groups(with: SequenceRows(fakeView([2, 3, 4]), skipping: 1)) == 2)
  }

  @Test("sequences without rows, or none at all, are no matrices", arguments: [[0, 3, 4], [7, 0, 4], [2, 3, 0, 4]])
  func none(_ shape: [Int]) {
    for stride in [4, 1 << 62, Int.max - 3, Int.min] {
      var view = fakeView(shape)
      for axis in shape.indices { view.strides[axis] = stride }
      let sequences = SequenceRows<Float>(view)
      #expect(sequences.groups(with: sequences) == 0)
    }
  }

  @Test("columns of two are one only if they are neighbours in every sequence")
  func joined() {
    func columns(_ first: Int, _ count: Int, step: Int = 20) -> SequenceRows<Float> {
      var view = fakeView([2, 3, count], address: 0x1000 + 4 * first)
      (view.strides[0], view.strides[1]) = (4 * 3 * step, 4 * step)
      return SequenceRows(view)
    }
    #expect(columns(0, 8).joined(columns(8, 5))?.width == 13)
    #expect(columns(0, 8).joined(columns(9, 5)) == nil)
    #expect(columns(8, 5).joined(columns(0, 8)) == nil)
    #expect(columns(0, 8).joined(columns(8, 5, step: 24)) == nil)
  }
}
