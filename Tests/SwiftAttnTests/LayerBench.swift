@testable import SwiftAttn

/// Memory that views point into.
final class Memory<T: ComputeElement> {
  private let buffer: UnsafeMutableBufferPointer<T>
  private(set) var used = 0

  init(capacity: Int) {
    buffer = .allocate(capacity: capacity)
    buffer.initialize(repeating: .nan)
  }

  deinit { buffer.deallocate() }

  /// A dense view of the next elements, which become `values`.
  func view(of values: [T], shape: [Int]) -> TensorView {
    let base = buffer.baseAddress! + used
    for (i, value) in values.enumerated() { base[i] = value }
    used += values.count
    var view = fakeView(shape, type: T.self == Double.self ? .float64 : .float32)
    view.data = UnsafeMutableRawPointer(base)
    return view
  }

  var values: [T] { Array(buffer[..<used]) }
}

/// A layer on views: its q, k and v projections each in memory of their own, or neighbours in one array as in PyTorch's
/// in_proj_weight and in_proj_bias; and so their gradients.
final class LayerBench<T: ComputeElement> {
  enum Place: CaseIterable { case apart, together, biasesApart, keyBetween, weightsBackwards }

  /// Of inputs and parameters, whose views must stay valid.
  private var memories: [Memory<T>] = []
  private let layerCase: LayerCase
  private let layer: MultiHeadAttention<T>
  private let inputs: MultiHeadAttention<T>.Inputs
  private let place: Place

  init(_ layerCase: LayerCase, _ place: Place) throws {
    self.layerCase = layerCase
    self.place = place
    layer = try layerCase.layer(T.self)
    inputs = try layerCase.inputs(T.self)
  }

  /// Forward and backward for some of the gradients, by name; those of parameters are added to `start`.
  func run(gradients wanted: Set<String>, start: T = 0) throws -> [String: [T]] {
    defer { memories = [] }
    let query = view(inputs.query)
    var arguments = LayerArguments(
      headsQ: layer.numHeads, headsKV: layer.numKVHeads, parameters: parameters { $0.elements }, query: query)
    (arguments.key, arguments.value, arguments.bias) = (
      inputs.key.map(view), inputs.value.map(view), inputs.bias.map(view)
    )
    (arguments.causal, arguments.rope, arguments.addsZeroToken) = (layerCase.causal, layer.rope, layer.addsZeroToken)
    let outGradient = view(try layerCase.outGradient(T.self))
    let out = view(try Tensor(repeating: .nan, shape: outGradient.shape.lengths))
    let saved = UnsafeMutableRawBufferPointer.allocate(
      byteCount: try LayerOperator.savedBytes(arguments), alignment: LayerOperator.memoryAlignment)
    defer { saved.deallocate() }
    try LayerOperator.forward(arguments, out: out, weights: nil, saved: saved)
    var gradients = LayerGradients()
    let all = ["query": arguments.query, "key": arguments.key, "value": arguments.value, "bias": arguments.bias]
    var targets = ["out": out]
    for (name, input) in all where wanted.contains(name) {
      guard let input else { continue }
      targets[name] = view(try Tensor(repeating: .nan, shape: input.shape.lengths))
    }
    (gradients.query, gradients.key) = (targets["query"], targets["key"])
    (gradients.value, gradients.bias) = (targets["value"], targets["bias"])
    gradients.parameters = parameters { [T](repeating: start, count: $0.elements.count) }
    for parameter in LayerParameter.allCases {
      if !wanted.contains("\(parameter)") { gradients.parameters[parameter] = nil }
      targets["\(parameter)"] = gradients.parameters[parameter]
    }
    try LayerOperator.backward(
      arguments, saved: UnsafeRawBufferPointer(saved), outGradient: outGradient, into: gradients)
    return targets.mapValues(elements)
  }

  private func view(_ tensor: Tensor<T>) -> TensorView {
    memories.append(Memory(capacity: tensor.elements.count + 1))
    return memories[memories.count - 1].view(of: tensor.elements, shape: tensor.shape)
  }

  private func elements(_ view: TensorView) -> [T] {
    let count = view.shape.lengths.reduce(1, *)
    return Array(UnsafeBufferPointer(start: view.data?.assumingMemoryBound(to: T.self), count: count))
  }

  /// Views of values made from each parameter.
  private func parameters(_ values: (Tensor<T>) -> [T]) -> LayerParameterViews {
    var views = LayerParameterViews()
    func add(_ group: [LayerParameter], together: Bool) {
      let tensors = group.compactMap { layer.parameters[$0] }
      let memory = Memory<T>(capacity: tensors.reduce(1) { $0 + $1.elements.count })
      for parameter in group {
        guard let tensor = layer.parameters[parameter] else { continue }
        let own = together ? memory : Memory<T>(capacity: tensor.elements.count + 1)
        memories.append(own)
        views[parameter] = own.view(of: values(tensor), shape: tensor.shape)
      }
    }
    let weights: [LayerParameter] =
      switch place {
      case .keyBetween: [.keyWeight, .queryWeight, .valueWeight]
      case .weightsBackwards: [.valueWeight, .keyWeight, .queryWeight]
      default: [.queryWeight, .keyWeight, .valueWeight]
      }
    add(weights, together: place != .apart)
    add([.queryBias, .keyBias, .valueBias], together: place == .together || place == .weightsBackwards)
    add([.outWeight, .outBias, .keyToken, .valueToken], together: false)
    return views
  }
}
