import Testing

@testable import SwiftAttn

/// The layer against a direct computation in Double.
@Suite struct LayerTests {
  private func expectClose<T: ComputeElement>(_ got: Tensor<T>, _ truth: [Double], _ what: String) {
    #expect(got.elements.count == truth.count, "\(what)")
    let worst = zip(got.elements, truth).map { abs(Double($0) - $1) / max(1, abs($1)) }.max() ?? 0
    // A NaN fails too.
    #expect(worst <= 128 * Double(T.ulpOfOne), "\(what): off by \(worst)")
  }

  @Test("outputs and weights, in every tier", arguments: LayerCase.small + LayerCase.large + [.wholePanels])
  func forward(_ layerCase: LayerCase) throws {
    try checkForward(layerCase, Float.self)
    try checkForward(layerCase, Double.self)
  }

  private func checkForward<T: ComputeElement>(_ layerCase: LayerCase, _: T.Type) throws {
    let (layer, inputs) = (try layerCase.layer(T.self), try layerCase.inputs(T.self))
    let reference = LayerReference(layer, inputs)
    for tier in tiers { try using(tier) { try check(layer, inputs, layerCase, reference) } }
  }

  private func check<T: ComputeElement>(
    _ layer: MultiHeadAttention<T>, _ inputs: MultiHeadAttention<T>.Inputs, _ layerCase: LayerCase,
    _ reference: LayerReference<T>
  ) throws {
    let out = try layer(inputs)
    let keys = layerCase.lengths.key + (layerCase.hasToken ? 1 : 0) + (layerCase.addsZeroToken ? 1 : 0)
    let (batch, queries) = (layerCase.batch, layerCase.lengths.query)
    #expect(out.shape == batch + [queries, layerCase.widths.out])
    expectClose(out, reference.out, "out")
    let forward = try layer.forward(inputs)
    #expect(forward.out.elements == out.elements, "saving changes the output")
    let weights = try layer.weights(inputs, average: false)
    #expect(weights.shape == batch + [layerCase.heads.query, queries, keys])
    expectClose(weights, reference.weights, "weights")
    let average = try layer.weights(inputs)
    #expect(average.shape == batch + [queries, keys])
    expectClose(average, reference.averageWeights, "average weights")
    var packed = layer
    try packed.packWeights()
    #expect(try packed(inputs).elements == out.elements, "packing the weights changes the output")
    let outGradient = try layerCase.outGradient(T.self)
    let gradients = try layer.backward(outGradient, of: forward)
    let packedGradients = try packed.backward(outGradient, of: try packed.forward(inputs))
    for (own, other) in zip(gradients.all, packedGradients.all) {
      #expect(own.tensor.elements == other.tensor.elements, "packing the weights changes the gradient of \(own.name)")
    }
  }

  @Test("a query that may attend to nothing gives the output's bias", arguments: tiers)
  func nothingSeen(_ tier: InstructionSet) throws {
    let layerCase = LayerCase(name: "nothing", lengths: (5, 3), hasValue: false, causal: .bottomRight)
    try using(tier) {
      let layer = try layerCase.layer(Float.self)
      let inputs = try layerCase.inputs(Float.self)
      let out = try layer(inputs)
      let bias = try #require(layer.parameters[.outBias]).elements
      // Queries 0 and 1 come before the first key.
      for batch in 0..<2 {
        for row in 0..<2 { #expect(Array(out.elements[(batch * 5 + row) * 6..<(batch * 5 + row + 1) * 6]) == bias) }
      }
      let gradients = try layer.backward(try layerCase.outGradient(Float.self), of: try layer.forward(inputs))
      for batch in 0..<2 { #expect(gradients.query.elements[batch * 30..<batch * 30 + 12].allSatisfy { $0 == 0 }) }
      #expect(gradients.query.elements[12..<30].contains { $0 != 0 })
    }
  }

  @Test("a token that no query sees reaches no output and no gradient, whatever it holds", arguments: tiers)
  func unseenTokens(_ tier: InstructionSet) throws {
    let cases = [
      LayerCase(name: "key lengths", hasToken: true, rope: Rope(), keyLengths: [3, 3]),
      LayerCase(name: "mask", mask: [2, 1, 1, 5]), LayerCase(name: "bias", hasValue: false, bias: [5]),
      LayerCase(name: "top left", lengths: (3, 5), causal: .topLeft), LayerCase(name: "no queries", lengths: (0, 5)),
    ]
    try using(tier) {
      for layerCase in cases {
        let layer = try layerCase.layer(Double.self)
        var inputs = try layerCase.inputs(Double.self)
        // The last two tokens of every sequence.
        if let mask = inputs.mask {
          inputs.mask = try Tensor(mask.elements.indices.map { $0 % 5 < 3 }, shape: mask.shape)
        }
        if let bias = inputs.bias {
          inputs.bias = try Tensor([0.5, -1, 2, -.infinity, -.infinity], shape: bias.shape)
        }
        let clean = try everything(layer, inputs, layerCase)
        for number in [Double.nan, .infinity] {
          var dirty = inputs
          for token in [3, 4, 8, 9] {
            for i in 0..<5 { dirty.key?.elements[token * 5 + i] = number }
            if layerCase.hasValue { for i in 0..<7 { dirty.value?.elements[token * 7 + i] = number } }
          }
          #expect(try everything(layer, dirty, layerCase) == clean, "\(layerCase.name)")
        }
      }
    }
  }

  /// Outputs, weights and all gradients.
  private func everything<T: ComputeElement>(
    _ layer: MultiHeadAttention<T>, _ inputs: MultiHeadAttention<T>.Inputs, _ layerCase: LayerCase
  ) throws -> [T] {
    let forward = try layer.forward(inputs)
    let gradients = try layer.backward(try layerCase.outGradient(T.self), of: forward)
    let all = [forward.out, try layer.weights(inputs, average: false)] + gradients.all.map(\.tensor)
    return all.flatMap(\.elements)
  }

  @Test("a token of self-attention that neither sees nor is seen reaches no gradient", arguments: tiers)
  func paddingToken(_ tier: InstructionSet) throws {
    let layerCase = LayerCase.selfAttention("padding", batch: [1])
    try using(tier) {
      let layer = try layerCase.layer(Double.self)
      var inputs = try layerCase.inputs(Double.self)
      inputs.mask = try Tensor((0..<25).map { $0 / 5 != 2 && $0 % 5 != 2 }, shape: [5, 5])
      let clean = try everything(layer, inputs, layerCase)
      for i in 12..<18 { inputs.query.elements[i] = .nan }
      #expect(try everything(layer, inputs, layerCase) == clean)
    }
  }

  @Test("same bits for any number of threads")
  func threads() throws {
    let layerCase = LayerCase.selfAttention(
      "threads", batch: [2], length: 130, heads: (4, 2), headDims: (16, 24), width: 64
    ).with { $0.rope = Rope() }
    let (layer, inputs) = (try layerCase.layer(Float.self), try layerCase.inputs(Float.self))
    try expectSameBits(threads: [1, 2, 3]) { try everything(layer, inputs, layerCase) }
  }

  @Test("same bits for a sequence alone and among others")
  func oneOfManySequences() throws {
    let layerCase = LayerCase(name: "batch", batch: [3], lengths: (7, 9), headDims: (10, 6))
    try takingTurns {
      let (layer, inputs) = (try layerCase.layer(Float.self), try layerCase.inputs(Float.self))
      let out = try layer(inputs)
      for b in 0..<3 {
        func alone(_ x: Tensor<Float>) throws -> Tensor<Float> {
          let size = x.elements.count / 3
          return try Tensor(Array(x.elements[b * size..<(b + 1) * size]), shape: Array(x.shape.dropFirst()))
        }
        let own = try layer(
          .init(query: try alone(inputs.query), key: try inputs.key.map(alone), value: try inputs.value.map(alone)))
        #expect(try own.elements == alone(out).elements)
      }
    }
  }
}
