/// Rotary positions (Su et al. 2021): pair t of a head's numbers turns by position / scaling * base^(-2t / dim).
public struct Rope: Sendable, Equatable {
  /// How many of a head's numbers turn, the first ones and an even number; nil: all.
  public var dim: Int?
  public var base: Double
  public var scaling: Double
  /// Pair t is (2t, 2t + 1), as in GPT-J and GLM; otherwise (t, t + dim / 2), as in Llama.
  public var interleaved: Bool
  /// The position of the first query, and of the first key: nil is the same.
  public var offset: Int
  public var keyOffset: Int?

  public init(
    dim: Int? = nil, base: Double = 10_000, scaling: Double = 1, interleaved: Bool = false, offset: Int = 0,
    keyOffset: Int? = nil
  ) {
    self.dim = dim
    self.base = base
    self.scaling = scaling
    self.interleaved = interleaved
    self.offset = offset
    self.keyOffset = keyOffset
  }
}

/// The parameters of a multi-head attention layer. Weights are (outputs, inputs): y = x W^T + b.
public enum LayerParameter: Int, CaseIterable, Sendable {
  /// (Hq * D, E), (Hkv * D, kdim), (Hkv * Dv, vdim) and (E, Hq * Dv).
  case queryWeight, keyWeight, valueWeight, outWeight
  /// Each as long as its weight has rows; optional.
  case queryBias, keyBias, valueBias, outBias
  /// One more key (Hkv * D) and value (Hkv * Dv) that every query sees; both or neither.
  case keyToken, valueToken

  var isWeight: Bool { rawValue <= Self.outWeight.rawValue }

  public var name: StaticString {
    switch self {
    case .queryWeight: "query_weight"
    case .keyWeight: "key_weight"
    case .valueWeight: "value_weight"
    case .outWeight: "out_weight"
    case .queryBias: "query_bias"
    case .keyBias: "key_bias"
    case .valueBias: "value_bias"
    case .outBias: "out_bias"
    case .keyToken: "key_token"
    case .valueToken: "value_token"
    }
  }

  public var gradientName: StaticString {
    switch self {
    case .queryWeight: "query_weight gradient"
    case .keyWeight: "key_weight gradient"
    case .valueWeight: "value_weight gradient"
    case .outWeight: "out_weight gradient"
    case .queryBias: "query_bias gradient"
    case .keyBias: "key_bias gradient"
    case .valueBias: "value_bias gradient"
    case .outBias: "out_bias gradient"
    case .keyToken: "key_token gradient"
    case .valueToken: "value_token gradient"
    }
  }
}

/// A view, or none, for each parameter: the parameters themselves, or their gradients.
public struct LayerParameterViews: Sendable {
  // Not an array: to read an element of one, all of it would be copied.
  private var queryWeight, keyWeight, valueWeight, outWeight: TensorView?
  private var queryBias, keyBias, valueBias, outBias: TensorView?
  private var keyToken, valueToken: TensorView?

  public init() {}

  public subscript(parameter: LayerParameter) -> TensorView? {
    get {
      switch parameter {
      case .queryWeight: queryWeight
      case .keyWeight: keyWeight
      case .valueWeight: valueWeight
      case .outWeight: outWeight
      case .queryBias: queryBias
      case .keyBias: keyBias
      case .valueBias: valueBias
      case .outBias: outBias
      case .keyToken: keyToken
      case .valueToken: valueToken
      }
    }
    set {
      switch parameter {
      case .queryWeight: queryWeight = newValue
      case .keyWeight: keyWeight = newValue
      case .valueWeight: valueWeight = newValue
      case .outWeight: outWeight = newValue
      case .queryBias: queryBias = newValue
      case .keyBias: keyBias = newValue
      case .valueBias: valueBias = newValue
      case .outBias: outBias = newValue
      case .keyToken: keyToken = newValue
      case .valueToken: valueToken = newValue
      }
    }
  }
}

/// The operands and options of a multi-head attention layer, as views. Nothing has been judged yet: `LayerPlan` does.
///
/// Shapes: query (B..., Sq, E), key (B..., Sk, kdim), value (B..., Sk, vdim), of one rank from 2 to 7; mask and bias
/// broadcast to (B..., Hq, Sq, Sk); key lengths (B...). Not copyable, because it is large.
public struct LayerArguments: ~Copyable {
  public var headsQ: Int
  public var headsKV: Int
  public var parameters: LayerParameterViews
  /// The same weights as `LayerOperator.pack` leaves them, valid during the call: forward is quicker with them, and its
  /// results are the same. Weights that have changed since go unnoticed. Backward does not read it.
  public var packed: UnsafeRawBufferPointer?
  /// Whether one more key and value, of zeros, is seen by every query.
  public var addsZeroToken = false
  public var rope: Rope?
  public var query: TensorView
  /// Nil: the query.
  public var key: TensorView?
  /// Nil: the key.
  public var value: TensorView?
  /// As in `AttentionArguments`; about the keys given, not about those that the layer adds.
  public var mask: TensorView?
  public var bias: TensorView?
  public var keyLengths: TensorView?
  public var causal = Causal.none
  public var interruptCheck: InterruptCheck?

  public init(headsQ: Int, headsKV: Int, parameters: LayerParameterViews, query: TensorView) {
    self.headsQ = headsQ
    self.headsKV = headsKV
    self.parameters = parameters
    self.query = query
  }

  /// The same for some elements of the first of the `batchRank` batch dimensions.
  func batchElements(_ range: Range<Int>, batchRank: Int) -> LayerArguments {
    /// Mask and bias may lack the dimension, or repeat along it.
    func broadcast(_ view: TensorView?) -> TensorView? {
      view.map { $0.rank == batchRank + 3 && $0.shape[0] != 1 ? $0.firstAxis(range) : $0 }
    }
    var part = LayerArguments(
      headsQ: headsQ, headsKV: headsKV, parameters: parameters, query: query.firstAxis(range))
    part.packed = packed
    part.addsZeroToken = addsZeroToken
    part.rope = rope
    part.key = key.map { $0.firstAxis(range) }
    part.value = value.map { $0.firstAxis(range) }
    part.mask = broadcast(mask)
    part.bias = broadcast(bias)
    part.keyLengths = keyLengths.map { $0.firstAxis(range) }
    part.causal = causal
    part.interruptCheck = interruptCheck
    return part
  }
}

extension TensorView {
  /// Some elements of the first axis.
  func firstAxis(_ range: Range<Int>) -> TensorView {
    var view = self
    // The strides of a tensor without elements may be too large to multiply.
    if !isEmpty { view.data = data.map { $0 + range.lowerBound * strides[0] } }
    view.shape[0] = range.count
    return view
  }
}

/// Where a layer's backward writes; nil leaves a gradient out, and its work with it. An input that was not given has no
/// gradient of its own: it counts in the one that stood for it.
public struct LayerGradients {
  public var query: TensorView?
  public var key: TensorView?
  public var value: TensorView?
  public var bias: TensorView?
  /// These are added to what is there.
  public var parameters = LayerParameterViews()

  public init() {}
}
