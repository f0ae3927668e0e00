/// What is checked of one tensor at a time; every complaint names it.
enum TensorJudge {
  /// More than any memory has, though strides of 0 allow any number; and few enough that no size which is made
  /// of a few lengths, such as a workspace's, is too large to count.
  private static let mostElements = 1 << 48

  @inline(never)
  static func rank(_ view: TensorView, _ name: StaticString, _ rank: Int) throws(AttentionError) {
    guard view.rank == rank else {
      throw AttentionError(
        .invalidShape, "\(name) has rank \(view.rank) but query has rank \(rank); its shape is \(view.shape)")
    }
  }

  /// Type, lengths, memory and strides. `type` nil: any.
  @inline(never)
  static func elements(_ view: TensorView, _ name: StaticString, type: ElementType?) throws(AttentionError) {
    if let type, view.type != type {
      throw AttentionError(.invalidElementType, "\(name) has dtype \(view.type.name) but must have \(type.name)")
    }
    let size = view.type.size
    var count = 1
    let (shape, strides) = (view.shape, view.strides)
    let (lengths, steps) = (shape.values.span, strides.values.span)
    for axis in 0..<shape.rank {
      guard lengths[axis] >= 0 else {
        throw AttentionError(.invalidShape, "\(name) has a negative length: shape \(view.shape)")
      }
      guard lengths[axis] <= 1 || steps[axis] & (size - 1) == 0 else {
        throw AttentionError(
          .invalidShape,
          "\(name) has stride \(steps[axis]), which is not a multiple of its \(size)-byte elements")
      }
      let (next, overflow) = count.multipliedReportingOverflow(by: max(lengths[axis], 1))
      guard !overflow, next <= mostElements else {
        throw AttentionError(.invalidShape, "\(name) has more elements than can be addressed: shape \(view.shape)")
      }
      count = next
    }
    guard !view.isEmpty else { return }
    guard let data = view.data else {
      throw AttentionError(.invalidArgument, "\(name) has no data: its pointer is NULL")
    }
    guard UInt(bitPattern: data) & UInt(size - 1) == 0 else {
      throw AttentionError(.invalidArgument, "\(name) is misaligned: its data must lie at a multiple of \(size) bytes")
    }
    guard MemoryExtent(view) != nil else {
      throw AttentionError(.invalidShape, "\(name) reaches beyond the address space: shape \(view.shape)")
    }
  }

  @inline(never)
  static func exact(
    _ view: TensorView, _ name: StaticString, shape: Shape, type: ElementType
  ) throws(AttentionError) {
    var matches = view.rank == shape.rank
    for axis in 0..<shape.rank where matches { matches = view.shape[axis] == shape[axis] }
    guard matches else {
      throw AttentionError(.invalidShape, "\(name) has shape \(view.shape) but must have \(shape)")
    }
    try elements(view, name, type: type)
  }

  /// Values are as many as keys, in the batches of the queries.
  @inline(never)
  static func sequences(query: Shape, key: Shape, value: Shape, batchRank: Int) throws(AttentionError) {
    for axis in 0..<batchRank {
      guard key[axis] == query[axis] else {
        throw AttentionError(
          .invalidShape, "key has batch dimensions unlike query's: shapes \(key) and \(query)")
      }
      guard value[axis] == query[axis] else {
        throw AttentionError(
          .invalidShape, "value has batch dimensions unlike query's: shapes \(value) and \(query)")
      }
    }
    guard value.last(2) == key.last(2) else {
      throw AttentionError(.invalidShape, "value has length \(value.last(2)) but key has \(key.last(2))")
    }
  }

  @inline(never)
  static func broadcast(
    _ view: TensorView, _ name: StaticString, to shape: Shape, type: ElementType
  ) throws(AttentionError) {
    if type == .bool, view.type == .float32 || view.type == .float64 {
      throw AttentionError(
        .invalidElementType,
        "\(name) has dtype \(view.type.name) but must be bool; pass an additive float mask as bias")
    }
    var fits = view.rank <= shape.rank
    for n in 1...Shape.maxRank where fits && n <= view.rank {
      fits = view.shape.last(n) == 1 || view.shape.last(n) == shape.last(n)
    }
    guard fits else {
      throw AttentionError(
        .invalidShape, "\(name) has shape \(view.shape), which does not broadcast to (..., Hq, Sq, Sk) = \(shape)")
    }
    try elements(view, name, type: type)
  }

  static func lengths(_ view: TensorView, _ name: StaticString, _ shape: Shape) throws(AttentionError) {
    guard view.type == .int32 || view.type == .int64 else {
      throw AttentionError(.invalidElementType, "\(name) has dtype \(view.type.name) but must be int32 or int64")
    }
    try exact(view, name, shape: shape, type: view.type)
  }
}

/// The outputs of one call, at most `capacity`: first they are admitted, then compared with every input. Judged before
/// anything is written.
struct OutputJudge<let capacity: Int>: ~Copyable {
  // The tensors in parts: each is too small for a call of memcpy, which whole ones would take many of.
  private var extents = InlineArray<capacity, MemoryExtent>(repeating: .nowhere)
  private var headers = InlineArray<capacity, OutputHeader>(repeating: OutputHeader())
  private var shapes = InlineArray<capacity, Shape>(repeating: Shape(rank: 0))
  private var strides = InlineArray<capacity, Shape>(repeating: Shape(rank: 0))
  private var count = 0

  @inline(__always)
  mutating func admit(
    _ view: TensorView?, _ name: StaticString, shape: Shape, type: ElementType
  ) throws(AttentionError) {
    if let view { try admit(view, name, shape: shape, type: type) }
  }

  /// Checks an output's shape, type and memory, and remembers it for the tensors after it.
  @inline(never)
  mutating func admit(
    _ view: TensorView, _ name: StaticString, shape: Shape, type: ElementType
  ) throws(AttentionError) {
    try TensorJudge.exact(view, name, shape: shape, type: type)
    guard MemoryOverlap.isInjective(view) else {
      throw AttentionError(.invalidArgument, "\(name) overlaps itself: two of its elements share memory")
    }
    guard let extent = MemoryExtent(view) else { return }
    if let other = firstOutput(overlapping: view, extent) { throw Self.overlap(of: name, other) }
    guard count < capacity else { return }
    extents[count] = extent
    headers[count] = OutputHeader(data: view.data, type: view.type, name: name)
    shapes[count] = view.shape
    strides[count] = view.strides
    count += 1
  }

  @inline(__always)
  mutating func keepClear(of input: TensorView?, _ name: StaticString) throws(AttentionError) {
    if let input { try keepClear(of: input, name) }
  }

  /// Checks that no output shares memory with an input. Mutating, so that the arrays need not be copied.
  @inline(never)
  mutating func keepClear(of input: TensorView, _ name: StaticString) throws(AttentionError) {
    guard let extent = MemoryExtent(input) else { return }
    if let output = firstOutput(overlapping: input, extent) { throw Self.overlap(of: output, name) }
  }

  private mutating func firstOutput(overlapping view: TensorView, _ extent: MemoryExtent) -> StaticString? {
    for i in 0..<count where extents[i].intersects(extent) {
      let header = headers[i]
      let output = TensorView(data: header.data, type: header.type, shape: shapes[i], strides: strides[i])
      if MemoryOverlap.exists(output, view) { return header.name }
    }
    return nil
  }

  private static func overlap(of output: StaticString, _ other: StaticString) -> AttentionError {
    AttentionError(.invalidArgument, "\(output) overlaps \(other) in memory")
  }
}

private struct OutputHeader {
  var data: UnsafeMutableRawPointer?
  var type = ElementType.bool
  var name: StaticString = ""
}
