import Testing

@testable import SwiftAttn

@Suite struct LayerGradientTests {
  private typealias Layer = MultiHeadAttention<Double>
  /// Adds a number to an element of one operand.
  private typealias Change = (inout Layer, inout Layer.Inputs, _ element: Int, _ step: Double) -> Void

  @Test("gradients of inputs, parameters and bias by central differences, in every tier", arguments: LayerCase.small)
  func centralDifferences(_ layerCase: LayerCase) throws {
    let (layer, inputs) = (try layerCase.layer(Double.self), try layerCase.inputs(Double.self))
    let outGradient = try layerCase.outGradient(Double.self)
    var gradients: [Layer.Gradients] = []
    for tier in tiers {
      try using(tier) { gradients.append(try layer.backward(outGradient, of: try layer.forward(inputs))) }
    }
    func loss(_ element: Int, _ step: Double, _ change: Change) throws -> Double {
      var (layer, inputs) = (layer, inputs)
      change(&layer, &inputs, element, step)
      return zip(try layer(inputs).elements, outGradient.elements).reduce(0) { $0 + $1.0 * $1.1 }
    }
    func expect(
      _ gradient: (Layer.Gradients) -> Tensor<Double>?, of operand: Tensor<Double>?, _ name: String, _ change: Change
    ) throws {
      let all = gradients.map(gradient)
      for gradient in all { #expect(gradient?.shape == operand?.shape, "\(name)") }
      for (i, number) in (operand?.elements ?? []).enumerated() {
        // What -infinity hides has no slope.
        let slope = number.isFinite ? (try loss(i, 1e-5, change) - loss(i, -1e-5, change)) / 2e-5 : 0
        for gradient in all {
          #expect(abs((gradient?.elements[i] ?? .nan) - slope) < 2e-8 * max(1, abs(slope)), "\(name)[\(i)]")
        }
      }
    }
    try expect(\.query, of: inputs.query, "query") { $1.query.elements[$2] += $3 }
    try expect(\.key, of: inputs.key, "key") { $1.key?.elements[$2] += $3 }
    try expect(\.value, of: inputs.value, "value") { $1.value?.elements[$2] += $3 }
    try expect(\.bias, of: inputs.bias, "bias") { $1.bias?.elements[$2] += $3 }
    for parameter in LayerParameter.allCases {
      try expect({ $0.parameters[parameter] }, of: layer.parameters[parameter], "\(parameter)") {
        $0.parameters[parameter]?.elements[$2] += $3
      }
    }
  }

  @Test("gradients in Float are those in Double", arguments: tiers, LayerCase.small + LayerCase.large)
  func precision(_ tier: InstructionSet, _ layerCase: LayerCase) throws {
    try using(tier) {
      func gradients<T: ComputeElement>(_: T.Type) throws -> MultiHeadAttention<T>.Gradients {
        let layer = try layerCase.layer(T.self)
        return try layer.backward(
          try layerCase.outGradient(T.self), of: try layer.forward(try layerCase.inputs(T.self)))
      }
      for (single, double) in zip(try gradients(Float.self).all, try gradients(Double.self).all) {
        #expect(single.name == double.name && single.tensor.shape == double.tensor.shape)
        let largest = double.tensor.elements.map(abs).max() ?? 0
        let worst = zip(single.tensor.elements, double.tensor.elements).map { abs(Double($0) - $1) }.max() ?? 0
        #expect(worst <= 1e-5 * max(1, largest), "\(single.name): off by \(worst) of \(largest)")
      }
    }
  }
}

extension MultiHeadAttention.Gradients {
  /// Those that there are, and what they are gradients of.
  var all: [(name: String, tensor: Tensor<Element>)] {
    let inputs = [("query", query), ("key", key), ("value", value), ("bias", bias)]
    let others = LayerParameter.allCases.map { ("\($0)", parameters[$0]) }
    return (inputs + others).compactMap { name, tensor in tensor.map { (name: name, tensor: $0) } }
  }
}
