import AttentionBlocks

/// A tensor, or none, for each parameter of a layer: the parameters themselves, or their gradients.
public struct LayerTensors<Element: ComputeElement>: Sendable {
  private var tensors = [Tensor<Element>?](repeating: nil, count: LayerParameter.allCases.count)

  public init() {}

  public subscript(parameter: LayerParameter) -> Tensor<Element>? {
    get { tensors[parameter.rawValue] }
    set { tensors[parameter.rawValue] = newValue }
  }

  /// In the order of `LayerParameter`.
  var all: [Tensor<Element>?] { tensors }
}

/// What a layer's forward saves, or its packed weights, as long as somebody holds on to it. Unchecked because of the
/// pointer: who makes it writes it before anybody else sees it, and afterwards it is only read.
final class LayerMemory: @unchecked Sendable {
  private let memory: Memory
  let bytes: UnsafeMutableRawBufferPointer

  init(bytes count: Int, for purpose: StaticString) throws(AttentionError) {
    guard let memory = Memory(bytes: count) else {
      throw AttentionError(.outOfMemory, "there was no memory for \(purpose)")
    }
    bytes = UnsafeMutableRawBufferPointer(start: memory.base, count: count)
    self.memory = memory
  }
}

/// body(views of the tensors that are there), for reading.
func withViews<Element: ComputeElement, Result>(
  _ tensors: [Tensor<Element>?], _ views: [TensorView?] = [],
  _ body: ([TensorView?]) throws(AttentionError) -> Result
) throws(AttentionError) -> Result {
  guard views.count < tensors.count else { return try body(views) }
  return try withView(tensors[views.count], Element.type) { (view: TensorView?) throws(AttentionError) in
    try withViews(tensors, views + [view], body)
  }
}

/// body(views of the tensors that are there), for writing.
func withMutableViews<Element: ComputeElement>(
  _ tensors: inout [Tensor<Element>?], _ views: [TensorView?] = [],
  _ body: ([TensorView?]) throws(AttentionError) -> Void
) throws(AttentionError) {
  let index = views.count
  guard index < tensors.count else { return try body(views) }
  guard var tensor = tensors[index] else { return try withMutableViews(&tensors, views + [nil], body) }
  // Out of the array, so that nothing else refers to its memory, which would be copied then.
  tensors[index] = nil
  defer { tensors[index] = tensor }
  try tensor.withMutableView(Element.type) { (view: TensorView) throws(AttentionError) in
    try withMutableViews(&tensors, views + [view], body)
  }
}

/// Numbers that depend on the seed only (SplitMix64, Steele et al. 2014).
struct UniformNumbers {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  /// Independent numbers from -bound to bound.
  mutating func tensor<Element: ComputeElement>(
    _ shape: [Int], bound: Double
  ) throws(AttentionError) -> Tensor<Element> {
    var tensor = try Tensor<Element>(repeating: 0, shape: shape)
    for index in tensor.elements.indices {
      // 53 bits, as many as a Double holds.
      tensor.elements[index] = Element(bound * (2 * Double(next() >> 11) / Double(1 << 53 as UInt64) - 1))
    }
    return tensor
  }

  private mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
