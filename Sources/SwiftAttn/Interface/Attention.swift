/// Scaled dot-product attention over `Tensor`s, with its derivative:
/// out = softmax(scale * query . key^T + bias, over the keys that the masks leave) . value
/// (Vaswani et al. 2017, equation 1).
///
///     let attention = Attention<Float>(causal: .topLeft)
///     let out = try attention(query: q, key: k, value: v)
///
/// Shapes: query (B..., Hq, Sq, D), key (B..., Hkv, Sk, D), value (B..., Hkv, Sk, Dv), of one rank: 2 is (S, D), 3 is
/// (H, S, D), more are batch dimensions. Hq is a multiple of Hkv; query head h uses key/value head h / (Hq/Hkv).
/// `Element` is Float or Double, and sums are taken in it. A row that may attend to nothing gives 0, and lse -infinity;
/// masked keys and values are skipped, whatever they hold. Calls may run concurrently; the result does not depend on
/// the number of threads, to the bit.
public struct Attention<Element: ComputeElement>: Sendable {
  /// Broadcastable to (B..., Hq, Sq, Sk); true means "may attend".
  public var mask: Tensor<Bool>?
  /// Broadcastable to (B..., Hq, Sq, Sk); added to the scaled scores. -infinity masks.
  public var bias: Tensor<Element>?
  /// One per batch element, 0...Sk: keys at and past it are masked. A single one for ranks 2 and 3.
  public var keyLengths: [Int]?
  /// One per batch element, 0...Sq: rows at and past it attend to nothing.
  public var queryLengths: [Int]?
  /// Finite and not zero; nil is 1/sqrt(D).
  public var scale: Double?
  public var causal: Causal

  public init(
    causal: Causal = .none, mask: Tensor<Bool>? = nil, bias: Tensor<Element>? = nil, scale: Double? = nil
  ) {
    self.causal = causal
    self.mask = mask
    self.bias = bias
    self.scale = scale
  }

  public struct Output: Sendable {
    /// (B..., Hq, Sq, Dv)
    public let out: Tensor<Element>
    /// (B..., Hq, Sq): the natural logarithm of each row's sum of exp(scores).
    public let lse: Tensor<Element>
  }

  public struct Gradients: Sendable {
    public let query: Tensor<Element>
    public let key: Tensor<Element>
    public let value: Tensor<Element>
    /// Of bias's shape, summed over its broadcast dimensions; nil without a bias.
    public let bias: Tensor<Element>?
  }

  /// The output alone, (B..., Hq, Sq, Dv): query (B..., Hq, Sq, D), key (B..., Hkv, Sk, D), value (B..., Hkv, Sk, Dv).
  /// - Throws: `AttentionError` naming the argument when shapes do not fit; `outOfMemory`.
  public func callAsFunction(
    query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>
  ) throws(AttentionError) -> Tensor<Element> {
    try forward(query: query, key: key, value: value).out
  }

  /// Output and logarithm of the row sums, which `backward` needs.
  /// - Throws: `AttentionError` naming the argument when shapes do not fit; `outOfMemory`.
  public func forward(
    query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>
  ) throws(AttentionError) -> Output {
    try withArguments(query, key, value) { (arguments: borrowing AttentionArguments) throws(AttentionError) in
      let geometry = try Geometry(arguments)
      var out = try Tensor<Element>(unwrittenShape: geometry.outShape.lengths)
      var lse = try Tensor<Element>(unwrittenShape: geometry.lseShape.lengths)
      try out.withMutableView(Element.type) { (out: TensorView) throws(AttentionError) in
        try lse.withMutableView(Element.type) { (lse: TensorView) throws(AttentionError) in
          try AttentionOperator.forward(arguments, out: out, lse: lse)
        }
      }
      return Output(out: out, lse: lse)
    }
  }

  /// The gradients of sum(outGradient * out), given what `forward` returned for the same operands.
  /// - Throws: `AttentionError` naming the argument when shapes do not fit; `outOfMemory`.
  public func backward(
    _ outGradient: Tensor<Element>, query: Tensor<Element>, key: Tensor<Element>, value: Tensor<Element>,
    output: Output
  ) throws(AttentionError) -> Gradients {
    var dQuery = try Tensor<Element>(unwrittenShape: query.shape)
    var dKey = try Tensor<Element>(unwrittenShape: key.shape)
    var dValue = try Tensor<Element>(unwrittenShape: value.shape)
    var dBias = try Tensor<Element>(unwrittenShape: bias?.shape ?? [0])
    try withArguments(query, key, value) { (arguments: borrowing AttentionArguments) throws(AttentionError) in
      try withResults(output, outGradient) { (results: AttentionResults) throws(AttentionError) in
        var gradients = AttentionGradients()
        try dQuery.withMutableView(Element.type) { (view: TensorView) throws(AttentionError) in
          gradients.query = view
          try dKey.withMutableView(Element.type) { (view: TensorView) throws(AttentionError) in
            gradients.key = view
            try dValue.withMutableView(Element.type) { (view: TensorView) throws(AttentionError) in
              gradients.value = view
              try dBias.withMutableView(Element.type) { (view: TensorView) throws(AttentionError) in
                if arguments.bias != nil { gradients.bias = view }
                try AttentionOperator.backward(arguments, results, into: gradients)
              }
            }
          }
        }
      }
    }
    return Gradients(query: dQuery, key: dKey, value: dValue, bias: bias == nil ? nil : dBias)
  }

  private func withResults<Result>(
    _ output: Output, _ outGradient: Tensor<Element>, _ body: (AttentionResults) throws(AttentionError) -> Result
  ) throws(AttentionError) -> Result {
    try output.out.withView(Element.type) { (out: TensorView) throws(AttentionError) in
      try output.lse.withView(Element.type) { (lse: TensorView) throws(AttentionError) in
        try outGradient.withView(Element.type) { (outGradient: TensorView) throws(AttentionError) in
          try body(AttentionResults(out: out, lse: lse, outGradient: outGradient))
        }
      }
    }
  }

  private func withArguments<Result>(
    _ query: Tensor<Element>, _ key: Tensor<Element>, _ value: Tensor<Element>,
    _ body: (borrowing AttentionArguments) throws(AttentionError) -> Result
  ) throws(AttentionError) -> Result {
    let batchShape = Array(query.shape.dropLast(3))
    let keyLengths = try keyLengths.map { (lengths) throws(AttentionError) in
      try Tensor(lengths: lengths, batch: batchShape)
    }
    let queryLengths = try queryLengths.map { (lengths) throws(AttentionError) in
      try Tensor(lengths: lengths, batch: batchShape)
    }
    return try query.withView(Element.type) { (query: TensorView) throws(AttentionError) in
      try key.withView(Element.type) { (key: TensorView) throws(AttentionError) in
        try value.withView(Element.type) { (value: TensorView) throws(AttentionError) in
          var arguments = AttentionArguments(query: query, key: key, value: value)
          arguments.scale = scale
          arguments.causal = causal
          return try withView(mask, .bool) { (view: TensorView?) throws(AttentionError) in
            arguments.mask = view
            return try withView(bias, Element.type) { (view: TensorView?) throws(AttentionError) in
              arguments.bias = view
              return try withView(keyLengths, .int64) { (view: TensorView?) throws(AttentionError) in
                arguments.keyLengths = view
                return try withView(queryLengths, .int64) { (view: TensorView?) throws(AttentionError) in
                  arguments.queryLengths = view
                  return try body(arguments)
                }
              }
            }
          }
        }
      }
    }
  }
}
