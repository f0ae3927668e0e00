/// A dense, row-major array of any rank up to 8 with its shape. A value: copies share memory until one is changed.
public struct Tensor<Element: Sendable>: Sendable {
  public let shape: [Int]
  public var elements: [Element]

  /// - Throws: `invalidShape` unless `elements` has exactly as many elements as `shape` says, in at most 8 dimensions.
  public init(_ elements: [Element], shape: [Int]) throws(AttentionError) {
    guard shape.count <= Shape.maxRank else {
      throw AttentionError(.invalidShape, "a tensor has at most \(Shape.maxRank) dimensions, not \(shape.count)")
    }
    guard let count = Self.count(of: shape), count == elements.count else {
      throw AttentionError(
        .invalidShape, "a tensor of shape \(Shape(shape)) cannot be made of \(elements.count) elements")
    }
    self.shape = shape
    self.elements = elements
  }

  /// `value` everywhere.
  public init(repeating value: Element, shape: [Int]) throws(AttentionError) {
    guard let count = Self.count(of: shape) else {
      throw AttentionError(.invalidShape, "a tensor cannot have the shape \(Shape(shape))")
    }
    try self.init([Element](repeating: value, count: count), shape: shape)
  }

  /// Memory to be written whole: zeroing it first would cost a pass over it on one thread.
  init(unwrittenShape shape: [Int]) throws(AttentionError) where Element: ComputeElement {
    guard let count = Self.count(of: shape) else {
      throw AttentionError(.invalidShape, "a tensor cannot have the shape \(Shape(shape))")
    }
    try self.init([Element](unsafeUninitializedCapacity: count) { $1 = count }, shape: shape)
  }

  /// One length for each batch element. Too many or too few are left to be judged, which names the argument.
  init(lengths: [Int], batch: [Int]) throws(AttentionError) where Element == Int {
    try self.init(lengths, shape: lengths.count == Self.count(of: batch) ? batch : [lengths.count])
  }

  private static func count(of shape: [Int]) -> Int? {
    var count = 1
    for length in shape {
      let (product, overflow) = count.multipliedReportingOverflow(by: length)
      guard length >= 0, !overflow else { return nil }
      count = product
    }
    return count
  }

  fileprivate func view(_ data: UnsafeMutableRawPointer?, _ type: ElementType) -> TensorView {
    let lengths = Shape(shape)
    var strides = lengths
    var step = MemoryLayout<Element>.stride
    for axis in shape.indices.reversed() {
      strides[axis] = step
      step &*= max(shape[axis], 1)
    }
    return TensorView(data: data, type: type, shape: lengths, strides: strides)
  }

  /// body(a view of this tensor's memory), for reading.
  func withView<Result>(
    _ type: ElementType, _ body: (TensorView) throws(AttentionError) -> Result
  ) throws(AttentionError) -> Result {
    try elements.withUnsafeBufferPointer { (buffer: UnsafeBufferPointer<Element>) throws(AttentionError) -> Result in
      try body(view(UnsafeMutableRawPointer(mutating: UnsafeRawPointer(buffer.baseAddress)), type))
    }
  }

  /// body(a view of this tensor's memory), for writing.
  mutating func withMutableView<Result>(
    _ type: ElementType, _ body: (TensorView) throws(AttentionError) -> Result
  ) throws(AttentionError) -> Result {
    let empty = view(nil, type)
    return try elements.withUnsafeMutableBufferPointer {
      (buffer: inout UnsafeMutableBufferPointer<Element>) throws(AttentionError) -> Result in
      var view = empty
      view.data = UnsafeMutableRawPointer(buffer.baseAddress)
      return try body(view)
    }
  }
}

extension Shape {
  init(_ lengths: [Int]) {
    self.init(rank: lengths.count)
    for axis in 0..<rank { self[axis] = lengths[axis] }
  }

  var lengths: [Int] { (0..<rank).map { self[$0] } }
}

/// body(a view of the tensor, or nil when there is none)
func withView<Element, Result>(
  _ tensor: Tensor<Element>?, _ type: ElementType, _ body: (TensorView?) throws(AttentionError) -> Result
) throws(AttentionError) -> Result {
  guard let tensor else { return try body(nil) }
  return try tensor.withView(type) { (view: TensorView) throws(AttentionError) in try body(view) }
}
