import AttentionBlocks
import CSwiftAttnShims

/// One operand as the passes read it: typed, strides in elements, broadcast dimensions with stride 0, and every leading
/// dimension folded into one batch index.
struct Operand<Element>: @unchecked Sendable {
  // Unchecked because of the pointer: inputs are only read, and no two work items write the same output element.
  let base: UnsafeMutablePointer<Element>
  let head: Int
  let row: Int
  let column: Int
  private var batchRank = 0
  // Rank 8 less heads, rows and columns.
  private var batchShape = InlineArray<5, Int>(repeating: 1)
  private var batchStrides = InlineArray<5, Int>(repeating: 0)

  /// `view` right-aligned against `full` = (B..., H, rows, columns), of rank 3 or more.
  @inline(never)
  init(_ view: TensorView, alignedTo full: Shape, as: Element.Type) {
    let size = MemoryLayout<Element>.stride
    // A tensor without elements may have no memory; nothing is read through this pointer then.
    base = (view.data ?? sa_nowhere()).assumingMemoryBound(to: Element.self)
    // Nor are its strides, which may be too large to multiply.
    let isEmpty = view.isEmpty
    let (shape, strides) = (view.shape, view.strides)
    let (lengths, steps) = (shape.values.span, strides.values.span)
    func step(_ fromEnd: Int) -> Int {
      let axis = shape.rank - fromEnd
      guard !isEmpty, axis >= 0, lengths[axis] != 1 else { return 0 }
      return steps[axis] / size
    }
    column = step(1)
    row = step(2)
    head = step(3)
    batchRank = max(full.rank - 3, 0)
    for axis in 0..<batchRank {
      batchShape[axis] = full[axis]
      batchStrides[axis] = step(full.rank - axis)
    }
  }

  /// Nil for no tensor.
  @inline(__always)
  init?(optional view: TensorView?, alignedTo full: Shape) {
    guard let view else { return nil }
    self.init(view, alignedTo: full, as: Element.self)
  }

  /// Offset of the batch element with this index, counted row-major over the leading dimensions.
  func offset(batch: Int) -> Int {
    var rest = batch
    var offset = 0
    for axis in stride(from: batchRank - 1, to: 0, by: -1) {
      offset += rest % batchShape[axis] * batchStrides[axis]
      rest /= batchShape[axis]
    }
    // The rest counts the first axis: most tensors have no other, and need no slow division.
    return offset + rest * batchStrides[0]
  }

  /// How far the second batch element is from the first.
  var batchStep: Int {
    for axis in stride(from: batchRank - 1, through: 0, by: -1) where batchShape[axis] != 1 {
      return batchStrides[axis]
    }
    return 0
  }

  func hasStrides(of other: Self) -> Bool {
    var same = row == other.row && column == other.column && batchRank == other.batchRank
    for axis in 0..<batchRank where batchShape[axis] != 1 {
      same = same && batchShape[axis] == other.batchShape[axis] && batchStrides[axis] == other.batchStrides[axis]
    }
    return same
  }

  /// Offset of one key/value head.
  func offset(_ block: RowBlock) -> Int { offset(batch: block.batch) + block.headKV * head }

  /// Zeroes some rows of a block's head.
  func clear(_ block: RowBlock, rows: Range<Int>, columns: Int) where Element: AttentionElement {
    for row in rows {
      let start = base + (offset(block) + row * self.row)
      if column == 1 {
        start.update(repeating: 0, count: columns)
      } else {
        for index in 0..<columns { start[index * column] = 0 }
      }
    }
  }

  /// Whether this is the first of the batch elements that share its memory because of broadcasting.
  func isFirst(batch: Int) -> Bool {
    var rest = batch
    for axis in stride(from: batchRank - 1, through: 0, by: -1) {
      if batchStrides[axis] == 0, rest % batchShape[axis] != 0 { return false }
      rest /= batchShape[axis]
    }
    return true
  }
}

/// Valid lengths per batch element; without a tensor every length is the full one.
struct Lengths: Sendable {
  /// Counted in bytes, as the type is not known to the compiler.
  private let bytes: Operand<UInt8>?
  private let areLong: Bool
  private let full: Int

  init(_ view: TensorView?, _ geometry: Geometry, full: Int) {
    self.full = full
    guard let view else {
      (bytes, areLong) = (nil, false)
      return
    }
    areLong = view.type == .int64
    // (B...) as (B..., 1, 1, 1)
    let rows = view.withTrailingAxis.withTrailingAxis.withTrailingAxis
    bytes = Operand(rows, alignedTo: geometry.scoreShape, as: UInt8.self)
  }

  var areGiven: Bool { bytes != nil }

  /// The length as the caller gave it.
  private func stored(batch: Int) -> Int {
    guard let bytes else { return full }
    let element = UnsafeRawPointer(bytes.base + bytes.offset(batch: batch))
    return areLong ? Int(element.load(as: Int64.self)) : Int(element.load(as: Int32.self))
  }

  /// The length, in range even if the caller's memory changes during the call.
  subscript(batch: Int) -> Int { min(max(stored(batch: batch), 0), full) }

  func check(_ geometry: Geometry, _ name: StaticString, _ limit: StaticString) throws(AttentionError) {
    guard areGiven else { return }
    for batch in 0..<geometry.batches {
      let length = stored(batch: batch)
      guard 0...full ~= length else {
        throw AttentionError(
          .invalidArgument, "\(name) must lie in 0...\(limit) = \(full), but the one of batch \(batch) is \(length)")
      }
    }
  }
}
