import Testing

@testable import SwiftAttn

/// What only callers with views of their own can ask for.
@Suite struct LayerViewTests {
  private static let names = Set(["query", "key", "value", "bias"] + LayerParameter.allCases.map { "\($0)" })

  private static let cases = [
    LayerCase.selfAttention("self-attention").with { $0.rope = Rope(dim: 2) },
    .selfAttention("self-attention with a learned key").with { $0.hasToken = true },
    .selfAttention("no biases").with { $0.hasBiases = false },
    // Rows of 16 numbers: those of q, k and v, and so their buffers, follow each other also where they are apart.
    .selfAttention("one token", batch: [], length: 1, heads: (1, 1), headDims: (16, 16), width: 3),
    LayerCase(name: "cross-attention", hasValue: false, bias: [2, 4, 3, 5]),
    LayerCase(name: "cross-attention of one", batch: [1], lengths: (1, 1), hasValue: false),
    LayerCase(name: "encoder and decoder", widths: (5, 5, 5, 5)),
  ]

  @Test("projections that are one product give the same bits as separate ones", arguments: cases)
  func joined(_ layerCase: LayerCase) throws {
    try takingTurns {
      try checkJoined(layerCase, Float.self)
      try checkJoined(layerCase, Double.self)
    }
  }

  private func checkJoined<T: ComputeElement>(_ layerCase: LayerCase, _: T.Type) throws {
    let apart = try LayerBench<T>(layerCase, .apart).run(gradients: Self.names)
    for place in LayerBench<T>.Place.allCases {
      let bench = try LayerBench<T>(layerCase, place)
      #expect(try bench.run(gradients: Self.names) == apart, "\(place)")
    }
  }

  @Test("gradients of parameters are added to what is there, all others overwrite", arguments: cases)
  func accumulated(_ layerCase: LayerCase) throws {
    try takingTurns {
      for place in [LayerBench<Double>.Place.apart, .together] {
        let bench = try LayerBench<Double>(layerCase, place)
        let fromZero = try bench.run(gradients: Self.names)
        let fromTwo = try bench.run(gradients: Self.names, start: 2)
        #expect(fromTwo.count == fromZero.count)
        for (name, gradient) in fromZero {
          let isParameter = LayerParameter.allCases.contains { "\($0)" == name }
          let expected = gradient.map { $0 + (isParameter ? 2 : 0) }
          let worst = zip(fromTwo[name] ?? [], expected).map { abs($0 - $1) }.max() ?? 0
          #expect(worst < 1e-14 * 100, "\(name)")
        }
      }
    }
  }

  @Test("each gradient alone, and all but it, have the bits of all together", arguments: cases)
  func subsets(_ layerCase: LayerCase) throws {
    try takingTurns {
      for place in [LayerBench<Float>.Place.apart, .together] {
        let bench = try LayerBench<Float>(layerCase, place)
        let all = try bench.run(gradients: Self.names)
        for name in all.keys {
          #expect(try bench.run(gradients: [name]) == all.filter { $0.key == name || $0.key == "out" }, "\(name) alone")
          let others = try bench.run(gradients: Self.names.subtracting([name]))
          #expect(others == all.filter { $0.key != name || $0.key == "out" }, "without \(name)")
        }
        #expect(try bench.run(gradients: []).count == 1)
      }
    }
  }
}
