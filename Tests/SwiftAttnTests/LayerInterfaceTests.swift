import Testing

@testable import SwiftAttn

/// `MultiHeadAttention` as a value with parameters.
@Suite struct LayerInterfaceTests {
  @Test("self-attention takes a tensor alone, and equals a query that is also given as key and value")
  func selfAttention() throws {
    try takingTurns {
      let layerCase = LayerCase.selfAttention("self").with { $0.causal = .topLeft }
      let (layer, x) = (try layerCase.layer(Float.self), try layerCase.inputs(Float.self).query)
      let out = try layer(x, causal: .topLeft)
      #expect(try layer(.init(query: x, key: x, value: x, causal: .topLeft)).elements == out.elements)
      #expect(try layer(.init(query: x, key: x, causal: .topLeft)).elements == out.elements)
      // Other memory, and so separate products.
      let copy = try Tensor(x.elements.map { $0 }, shape: x.shape)
      #expect(try layer(.init(query: x, key: copy, causal: .topLeft)).elements == out.elements)
      #expect(try layer(x).elements != out.elements)
    }
  }

  @Test("the layer is a value")
  func value() throws {
    try takingTurns {
      let layerCase = LayerCase.selfAttention("value")
      let layer = try layerCase.layer(Float.self)
      let inputs = try layerCase.inputs(Float.self)
      let out = try layer(inputs)
      var changed = layer
      changed.parameters[.valueBias]?.elements[2] += 1
      #expect(try layer(inputs).elements == out.elements)
      #expect(try changed(inputs).elements != out.elements)
      changed.parameters[.valueBias] = layer.parameters[.valueBias]
      #expect(try changed(inputs).elements == out.elements)
      changed.rope = Rope()
      #expect(try changed(inputs).elements != out.elements)
      changed = layer
      changed.addsZeroToken = true
      #expect(try changed(inputs).elements != out.elements)
    }
  }

  @Test("packed weights are of the value that packed them, and go with a change of the parameters")
  func packedWeights() throws {
    try takingTurns {
      let layerCase = LayerCase.selfAttention("packed")
      let (layer, inputs) = (try layerCase.layer(Float.self), try layerCase.inputs(Float.self))
      var packed = layer
      try packed.packWeights()
      #expect(packed.hasPackedWeights && !layer.hasPackedWeights)
      var changed = packed
      changed.parameters[.keyWeight]?.elements[1] += 1
      #expect(!changed.hasPackedWeights && packed.hasPackedWeights)
      var expected = layer
      expected.parameters[.keyWeight]?.elements[1] += 1
      #expect(try changed(inputs).elements == expected(inputs).elements)
      try changed.packWeights()
      #expect(try changed(inputs).elements == expected(inputs).elements)
      #expect(try packed(inputs).elements == layer(inputs).elements)
      var incomplete = layer
      incomplete.parameters[.outWeight] = nil
      expectError("out_weight is missing") { () throws(AttentionError) in try incomplete.packWeights() }
      #expect(!incomplete.hasPackedWeights)
    }
  }

  @Test("backward is about the layer as it was in forward")
  func laterChanges() throws {
    try takingTurns {
      let layerCase = LayerCase.selfAttention("changed")
      var layer = try layerCase.layer(Float.self)
      let forward = try layer.forward(try layerCase.inputs(Float.self))
      let outGradient = try layerCase.outGradient(Float.self)
      let before = try layer.backward(outGradient, of: forward)
      layer.parameters[.outWeight]?.elements[3] += 1
      layer.parameters[.keyBias] = nil
      layer.rope = Rope()
      layer.addsZeroToken = true
      let after = try layer.backward(outGradient, of: forward)
      #expect(before.all.map(\.name) == after.all.map(\.name))
      for (a, b) in zip(before.all, after.all) { #expect(a.tensor.elements == b.tensor.elements, "\(a.name)") }
    }
  }

  @Test("random layers: shapes, ranges and seeds")
  func randomLayers() throws {
    let layer = try MultiHeadAttention<Float>(embedDim: 24, numHeads: 4, numKVHeads: 2, headDim: 5, seed: 3)
    let expected: [LayerParameter: [Int]] = [
      .queryWeight: [20, 24], .keyWeight: [10, 24], .valueWeight: [10, 24], .outWeight: [24, 20], .queryBias: [20],
      .keyBias: [10], .valueBias: [10], .outBias: [24],
    ]
    for parameter in LayerParameter.allCases { #expect(layer.parameters[parameter]?.shape == expected[parameter]) }
    for (weight, bound) in [
      (LayerParameter.queryWeight, (6.0 / 64).squareRoot()), (.keyWeight, (6.0 / 64).squareRoot()),
      (.valueWeight, (6.0 / 64).squareRoot()), (.outWeight, 1 / 20.0.squareRoot()),
    ] {
      let numbers = try #require(layer.parameters[weight]).elements.map { Double($0) / bound }
      #expect(numbers.allSatisfy { abs($0) <= 1 } && numbers.contains { $0 > 0.9 } && numbers.contains { $0 < -0.9 })
      #expect(abs(numbers.reduce(0, +) / Double(numbers.count)) < 0.15)
    }
    #expect(layer.parameters[.keyBias]?.elements == [Float](repeating: 0, count: 10))
    let same = try MultiHeadAttention<Float>(embedDim: 24, numHeads: 4, numKVHeads: 2, headDim: 5, seed: 3)
    let other = try MultiHeadAttention<Float>(embedDim: 24, numHeads: 4, numKVHeads: 2, headDim: 5, seed: 4)
    #expect(same.parameters[.outWeight]?.elements == layer.parameters[.outWeight]?.elements)
    #expect(other.parameters[.outWeight]?.elements != layer.parameters[.outWeight]?.elements)
    #expect(layer.parameters[.keyWeight]?.elements != layer.parameters[.valueWeight]?.elements)
    let bare = try MultiHeadAttention<Double>(embedDim: 12, numHeads: 3, bias: false)
    #expect(bare.parameters[.queryWeight]?.shape == [12, 12] && bare.parameters[.outBias] == nil)
    #expect(try bare(Tensor(repeating: 1, shape: [2, 12])).shape == [2, 12])
  }

  @Test(
    "numbers that fit no layer",
    arguments: [
      (8, 0, nil, nil), (0, 2, nil, nil), (-8, 2, nil, nil), (8, -2, nil, nil), (8, 4, 3, nil), (8, 4, 0, nil),
      (8, 3, nil, nil), (8, 2, nil, 0), (8, 2, nil, -1), (8, 2, nil, Int.max), (Int.max, 1, nil, nil),
      (8, Int.max, 1, 1), (8, 1 << 20, nil, 1 << 20), (8, 2, Int.min, nil), (Int.max, Int.max, Int.max, Int.max),
    ] as [(Int, Int, Int?, Int?)])
  func badNumbers(_ embedDim: Int, _ numHeads: Int, _ numKVHeads: Int?, _ headDim: Int?) {
    do throws(AttentionError) {
      _ = try MultiHeadAttention<Float>(
        embedDim: embedDim, numHeads: numHeads, numKVHeads: numKVHeads, headDim: headDim)
      Issue.record("accepted")
    } catch {
      #expect(error.kind == .invalidArgument)
      #expect(error.description.contains(headDim == nil || numHeads == .max ? "embedDim" : "headDim"))
    }
  }

  @Test("tensors that fit no layer are named")
  func badTensors() throws {
    let layerCase = LayerCase(name: "bad")
    let layer = try layerCase.layer(Float.self)
    let good = try layerCase.inputs(Float.self)
    let bad: [(name: String, change: (inout MultiHeadAttention<Float>.Inputs) throws -> Void)] = [
      ("query must have a rank", { $0.query = try Tensor(repeating: 0, shape: []) }),
      ("query must have a rank", { $0.query = try Tensor(repeating: 0, shape: [6]) }),
      ("query must have a rank", { $0.query = try Tensor(repeating: 0, shape: [1, 1, 1, 1, 1, 2, 3, 6]) }),
      ("query has width", { $0.query = try Tensor(repeating: 0, shape: [2, 3, 5]) }),
      ("key has batch", { $0.key = try Tensor(repeating: 0, shape: [3, 5, 5]) }),
      ("value has length", { $0.value = try Tensor(repeating: 0, shape: [2, 4, 7]) }),
      ("mask has shape", { $0.mask = try Tensor(repeating: true, shape: [3, 6]) }),
      ("bias has shape", { $0.bias = try Tensor(repeating: 0, shape: [3, 4, 3, 5]) }),
      ("key_lengths has shape (3,)", { $0.keyLengths = [5, 5, 5] }),
      ("key_lengths has shape (0,)", { $0.keyLengths = [] }),
      ("key_lengths must lie in 0...Sk = 5, but the one of batch 1 is 6", { $0.keyLengths = [5, 6] }),
      ("key_lengths must lie in 0...Sk = 5, but the one of batch 0 is -1", { $0.keyLengths = [-1, 5] }),
    ]
    for (name, change) in bad {
      var inputs = good
      try change(&inputs)
      expectError(name) { () throws(AttentionError) in _ = try layer(inputs) }
      expectError(name) { () throws(AttentionError) in _ = try layer.forward(inputs) }
      expectError(name) { () throws(AttentionError) in _ = try layer.weights(inputs, average: false) }
    }
    let forward = try layer.forward(good)
    let narrow = try Tensor<Float>(repeating: 0, shape: [2, 3, 5])
    expectError("dout has shape (2, 3, 5)") { () throws(AttentionError) in _ = try layer.backward(narrow, of: forward) }
    var incomplete = layer
    incomplete.parameters[.outWeight] = nil
    expectError("out_weight is missing") { () throws(AttentionError) in _ = try incomplete(good) }
  }
}
