import Testing

@testable import SwiftAttn

/// A layer and what goes into it, by its sizes and options.
struct LayerCase: Sendable, CustomTestStringConvertible {
  var name: String
  var batch = [2]
  var lengths = (query: 3, key: 5)
  var heads = (query: 4, keyValue: 2)
  var headDims = (key: 4, value: 3)
  var widths = (query: 6, key: 5, value: 7, out: 6)
  var hasKey = true
  var hasValue = true
  var hasBiases = true
  var hasToken = false
  var addsZeroToken = false
  var rope: Rope?
  /// How the lengths of the scores are kept in a mask or an additive bias: 1 for those that broadcast.
  var mask: [Int]?
  var bias: [Int]?
  var keyLengths: [Int]?
  var causal = Causal.none

  var testDescription: String { name }

  /// Self-attention of tokens as wide as its output.
  static func selfAttention(
    _ name: String, batch: [Int] = [2], length: Int = 5, heads: (query: Int, keyValue: Int) = (4, 2),
    headDims: (key: Int, value: Int) = (4, 3), width: Int = 6
  ) -> Self {
    LayerCase(
      name: name, batch: batch, lengths: (length, length), heads: heads, headDims: headDims,
      widths: (width, width, width, width), hasKey: false, hasValue: false)
  }

  func with(_ change: (inout Self) -> Void) -> Self {
    var changed = self
    change(&changed)
    return changed
  }

  /// Reproducible numbers: the same for every element type but for their rounding.
  func layer<T: ComputeElement>(_: T.Type) throws -> MultiHeadAttention<T> {
    var tensors = Tensors(seed: 21)
    let (q, k, v) = (heads.query * headDims.key, heads.keyValue * headDims.key, heads.keyValue * headDims.value)
    let merged = heads.query * headDims.value
    var parameters = LayerTensors<T>()
    parameters[.queryWeight] = try tensors.next([q, widths.query])
    parameters[.keyWeight] = try tensors.next([k, hasKey ? widths.key : widths.query])
    parameters[.valueWeight] = try tensors.next([v, hasValue ? widths.value : hasKey ? widths.key : widths.query])
    parameters[.outWeight] = try tensors.next([widths.out, merged])
    if hasBiases {
      parameters[.queryBias] = try tensors.next([q])
      parameters[.keyBias] = try tensors.next([k])
      parameters[.valueBias] = try tensors.next([v])
      parameters[.outBias] = try tensors.next([widths.out])
    }
    if hasToken {
      parameters[.keyToken] = try tensors.next([k])
      parameters[.valueToken] = try tensors.next([v])
    }
    return MultiHeadAttention(
      numHeads: heads.query, numKVHeads: heads.keyValue, parameters: parameters, rope: rope,
      addsZeroToken: addsZeroToken)
  }

  /// Mask and bias hide about a third of the pairs, and all those of the middle query where they have rows of queries.
  func inputs<T: ComputeElement>(_: T.Type) throws -> MultiHeadAttention<T>.Inputs {
    var tensors = Tensors(seed: 22)
    var inputs = MultiHeadAttention<T>.Inputs(
      query: try tensors.next(batch + [lengths.query, widths.query]), keyLengths: keyLengths, causal: causal)
    if hasKey { inputs.key = try tensors.next(batch + [lengths.key, widths.key]) }
    if hasValue { inputs.value = try tensors.next(batch + [lengths.key, widths.value]) }
    if let mask {
      var hidden: Tensor<Double> = try tensors.next(mask)
      hideMiddleQuery(&hidden, -1)
      inputs.mask = try Tensor(hidden.elements.map { $0 > -0.3 }, shape: mask)
    }
    if let bias {
      var numbers: Tensor<T> = try tensors.next(bias)
      for i in numbers.elements.indices where numbers.elements[i] < -0.4 { numbers.elements[i] = -.infinity }
      hideMiddleQuery(&numbers, -.infinity)
      inputs.bias = numbers
    }
    return inputs
  }

  private func hideMiddleQuery<T: ComputeElement>(_ tensor: inout Tensor<T>, _ number: T) {
    let keys = tensor.shape.last ?? 1
    guard tensor.shape.count >= 2, tensor.shape[tensor.shape.count - 2] == lengths.query, lengths.query > 1 else {
      return
    }
    for i in tensor.elements.indices where i / max(keys, 1) % lengths.query == lengths.query / 2 {
      tensor.elements[i] = number
    }
  }

  func outGradient<T: ComputeElement>(_: T.Type) throws -> Tensor<T> {
    var tensors = Tensors(seed: 23)
    return try tensors.next(batch + [lengths.query, widths.out])
  }
}

extension LayerCase {
  /// Options crossed, at sizes for which all gradients can be checked number by number.
  static let small: [LayerCase] = [
    .selfAttention("self-attention"),
    .selfAttention("self-attention of many batch axes", batch: [2, 1, 2], length: 3).with { $0.causal = .topLeft },
    .selfAttention("one token", batch: [3], length: 1).with { $0.rope = Rope(offset: 5) },
    .selfAttention("matrices, no biases, one number a head", batch: [], headDims: (1, 1)).with {
      $0.hasBiases = false
      $0.bias = [4, 5, 5]
    },
    .selfAttention("self-attention, half-split, causal").with {
      $0.rope = Rope(base: 50, offset: 3)
      $0.causal = .topLeft
    },
    .selfAttention("self-attention, learned and zero key, interleaved").with {
      ($0.hasToken, $0.addsZeroToken) = (true, true)
      $0.rope = Rope(interleaved: true)
    },
    LayerCase(name: "cross-attention", hasValue: false).with { $0.causal = .bottomRight },
    LayerCase(name: "cross-attention, more queries", lengths: (5, 3), hasValue: false).with {
      $0.causal = .bottomRight
    },
    LayerCase(name: "encoder and decoder", rope: Rope(dim: 2, scaling: 2, offset: 2, keyOffset: -1)),
    LayerCase(name: "a value beside the query", lengths: (5, 5), hasKey: false),
    LayerCase(name: "mask and bias", hasToken: true, mask: [2, 4, 3, 5], bias: [2, 4, 3, 5]),
    LayerCase(name: "mask over keys, bias over heads", addsZeroToken: true, mask: [5], bias: [2, 1, 3, 5]),
    LayerCase(name: "one bias for all", bias: [3, 5], keyLengths: [5, 2]),
    LayerCase(
      name: "everything", lengths: (4, 5), headDims: (6, 5), hasToken: true, addsZeroToken: true,
      rope: Rope(dim: 4, base: 20, interleaved: true, offset: 1, keyOffset: 4), mask: [2, 1, 4, 5], bias: [4, 1, 5],
      keyLengths: [3, 5], causal: .bottomRight),
    LayerCase(name: "no keys", lengths: (3, 0)),
    LayerCase(name: "no keys but the learned one", lengths: (3, 0), hasToken: true),
    LayerCase(name: "no queries", lengths: (0, 3), hasToken: true),
    LayerCase(name: "no sequences", batch: [0], hasToken: true, addsZeroToken: true),
    LayerCase(name: "keys of no numbers", widths: (6, 0, 7, 5)),
  ]

  /// Widths of whole panels of packed weights.
  static let wholePanels: LayerCase = .selfAttention(
    "whole panels", length: 9, heads: (4, 2), headDims: (32, 64), width: 24)

  /// Several blocks of keys, and head dims on either side of a vector.
  static let large: [LayerCase] = [
    .selfAttention("blocks of keys", batch: [1], length: 130, heads: (2, 1), headDims: (17, 9), width: 20).with {
      $0.rope = Rope(dim: 16)
      $0.causal = .topLeft
    },
    LayerCase(
      name: "blocks of keys, all options", batch: [1], lengths: (20, 140), heads: (2, 2), headDims: (18, 16),
      widths: (12, 33, 16, 40), hasToken: true, addsZeroToken: true,
      rope: Rope(dim: 10, interleaved: true, offset: 120, keyOffset: 0), mask: [1, 2, 20, 140], bias: [20, 140],
      keyLengths: [135], causal: .bottomRight),
  ]
}
