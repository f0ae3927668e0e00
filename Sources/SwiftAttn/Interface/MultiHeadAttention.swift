import AttentionBlocks

/// Multi-head attention with the projections around it, and its derivative (Vaswani et al. 2017, section 3.2.2): with W
/// and b the rows of each head, out = concat(softmax(q k^T / sqrt(D) + bias, over the keys that the masks leave) v of
/// each head) Wo^T + bo, where q = query Wq^T + bq, k = key Wk^T + bk and v = value Wv^T + bv.
///
///     let layer = try MultiHeadAttention<Float>(embedDim: 64, numHeads: 8, seed: 0)
///     let forward = try layer.forward(.init(query: x, causal: .topLeft))
///     let gradients = try layer.backward(outGradient, of: forward)
///
/// Shapes: query (B..., Sq, E), key (B..., Sk, kdim), value (B..., Sk, vdim), of one rank from 2 to 7; without a key,
/// query is key and value, and without a value, key is. A query that may attend to nothing gives bo. `Element` is Float
/// or Double, and sums are taken in it. A value: copies share nothing that changes. Calls may run concurrently; results
/// do not depend on the number of threads, to the bit.
public struct MultiHeadAttention<Element: ComputeElement>: Sendable {
  public let numHeads: Int
  public let numKVHeads: Int
  /// Turns queries and keys by their positions.
  public var rope: Rope?
  /// Whether one more key and value, of zeros, is seen by every query.
  public var addsZeroToken: Bool
  /// By what each is for; weights are (outputs, inputs) as in PyTorch. Their shapes stay as they are.
  public var parameters: LayerTensors<Element> { didSet { packed = nil } }
  private var packed: LayerMemory?

  /// A layer of given parameters; the weights are required. Whether they fit is judged when the layer is called.
  public init(
    numHeads: Int, numKVHeads: Int? = nil, parameters: LayerTensors<Element>, rope: Rope? = nil,
    addsZeroToken: Bool = false
  ) {
    self.numHeads = numHeads
    self.numKVHeads = numKVHeads ?? numHeads
    self.parameters = parameters
    self.rope = rope
    self.addsZeroToken = addsZeroToken
  }

  /// A layer of random weights, distributed as PyTorch's: uniform within sqrt(6 / (inputs + outputs)) for q, k and v,
  /// taken together, and within 1 / sqrt(inputs) for the output; biases are zero. Equal seeds give equal layers.
  ///
  /// - Parameter numKVHeads: how many heads keys and values have, a divisor of numHeads; nil: as many.
  /// - Parameter headDim: nil is embedDim / numHeads, which must then be whole.
  /// - Throws: `invalidArgument` when the numbers do not fit each other.
  public init(
    embedDim: Int, numHeads: Int, numKVHeads: Int? = nil, headDim: Int? = nil, bias: Bool = true, seed: UInt64 = 0
  ) throws(AttentionError) {
    let headsKV = numKVHeads ?? numHeads
    let widths = 1...LayerShape.largestWidth
    guard widths ~= embedDim, widths ~= numHeads, headsKV > 0, numHeads % headsKV == 0 else {
      throw AttentionError(
        .invalidArgument, "embedDim \(embedDim), numHeads \(numHeads) and numKVHeads \(headsKV) do not fit each other")
    }
    guard let dim = headDim ?? (embedDim % numHeads == 0 ? embedDim / numHeads : nil) else {
      throw AttentionError(.invalidArgument, "embedDim \(embedDim) must be a multiple of numHeads \(numHeads)")
    }
    guard 1...widths.upperBound / numHeads ~= dim else {
      throw AttentionError(.invalidArgument, "headDim \(dim) must be at least 1, and \(numHeads) heads not too wide")
    }
    var random = UniformNumbers(seed: seed)
    var parameters = LayerTensors<Element>()
    let (rowsQ, rowsKV) = (numHeads * dim, headsKV * dim)
    let inputBound = (6 / Double(rowsQ + 2 * rowsKV + embedDim)).squareRoot()
    parameters[.queryWeight] = try random.tensor([rowsQ, embedDim], bound: inputBound)
    parameters[.keyWeight] = try random.tensor([rowsKV, embedDim], bound: inputBound)
    parameters[.valueWeight] = try random.tensor([rowsKV, embedDim], bound: inputBound)
    parameters[.outWeight] = try random.tensor([embedDim, rowsQ], bound: 1 / Double(rowsQ).squareRoot())
    if bias {
      parameters[.queryBias] = try Tensor(repeating: 0, shape: [rowsQ])
      parameters[.keyBias] = try Tensor(repeating: 0, shape: [rowsKV])
      parameters[.valueBias] = try Tensor(repeating: 0, shape: [rowsKV])
      parameters[.outBias] = try Tensor(repeating: 0, shape: [embedDim])
    }
    self.init(numHeads: numHeads, numKVHeads: headsKV, parameters: parameters)
  }

  /// Whether calls read the weights as `packWeights` left them.
  public var hasPackedWeights: Bool { packed != nil }

  /// Copies the weights in the order in which the products read them, which every call otherwise does anew: calls are
  /// quicker by it, the more so the fewer tokens they have, and no bit of the results changes. Takes as much memory
  /// again as the weights, whose lengths are rounded up to whole vectors. The copy goes with any change of
  /// `parameters`.
  /// - Throws: `AttentionError` naming a weight that is missing or not a matrix; `outOfMemory`.
  public mutating func packWeights() throws(AttentionError) {
    packed = try withParameters { (views: LayerParameterViews) throws(AttentionError) in
      let memory = try LayerMemory(bytes: try LayerOperator.packedBytes(views), for: "packed weights")
      try LayerOperator.pack(views, into: memory.bytes)
      return memory
    }
  }

  private func withParameters<Result>(
    _ body: (LayerParameterViews) throws(AttentionError) -> Result
  ) throws(AttentionError) -> Result {
    try withViews(parameters.all) { (views: [TensorView?]) throws(AttentionError) in
      var parameters = LayerParameterViews()
      for parameter in LayerParameter.allCases { parameters[parameter] = views[parameter.rawValue] }
      return try body(parameters)
    }
  }

  /// What goes into a call besides the layer itself.
  public struct Inputs: Sendable {
    public var query: Tensor<Element>
    public var key: Tensor<Element>?
    public var value: Tensor<Element>?
    /// Broadcastable to (B..., Hq, Sq, Sk); true means "may attend". About the keys given, as are the others.
    public var mask: Tensor<Bool>?
    /// Broadcastable to (B..., Hq, Sq, Sk); added to the scaled scores. -infinity masks.
    public var bias: Tensor<Element>?
    /// One per batch element, 0...Sk: keys at and past it are masked.
    public var keyLengths: [Int]?
    public var causal: Causal

    public init(
      query: Tensor<Element>, key: Tensor<Element>? = nil, value: Tensor<Element>? = nil, mask: Tensor<Bool>? = nil,
      bias: Tensor<Element>? = nil, keyLengths: [Int]? = nil, causal: Causal = .none
    ) {
      self.query = query
      self.key = key
      self.value = value
      self.mask = mask
      self.bias = bias
      self.keyLengths = keyLengths
      self.causal = causal
    }
  }

  /// What a call gave, and what `backward` needs of it: O(B (Sq + Sk)), never Sq * Sk.
  public struct Forward: Sendable {
    /// (B..., Sq, E)
    public let out: Tensor<Element>
    fileprivate let layer: MultiHeadAttention
    fileprivate let inputs: Inputs
    fileprivate let saved: LayerMemory
  }

  public struct Gradients: Sendable {
    public let query: Tensor<Element>
    /// Nil where it was not given: its gradient is in that of the input which stood for it.
    public let key: Tensor<Element>?
    public let value: Tensor<Element>?
    /// Of bias's shape; nil without a bias.
    public let bias: Tensor<Element>?
    public let parameters: LayerTensors<Element>
  }

  /// The output (B..., Sq, E), keeping nothing.
  /// - Throws: `AttentionError` naming the argument when shapes do not fit; `outOfMemory`.
  public func callAsFunction(_ inputs: Inputs) throws(AttentionError) -> Tensor<Element> {
    try withArguments(inputs) { (arguments: borrowing LayerArguments) throws(AttentionError) in
      var out = try Tensor<Element>(unwrittenShape: try LayerShape(arguments).outShape.lengths)
      try out.withMutableView(Element.type) { (out: TensorView) throws(AttentionError) in
        try LayerOperator.forward(arguments, out: out, weights: nil, saved: nil)
      }
      return out
    }
  }

  /// The same for self-attention.
  public func callAsFunction(_ x: Tensor<Element>, causal: Causal = .none) throws(AttentionError) -> Tensor<Element> {
    try self(Inputs(query: x, causal: causal))
  }

  /// The softmax that the output of these inputs is made of, (B..., Hq, Sq, Sk'), or its average over the heads
  /// (B..., Sq, Sk'); the layer's own keys come last. Of a query that sees no key they are 0.
  /// - Throws: as the call.
  public func weights(_ inputs: Inputs, average: Bool = true) throws(AttentionError) -> Tensor<Element> {
    try withArguments(inputs) { (arguments: borrowing LayerArguments) throws(AttentionError) in
      let shape = try LayerShape(arguments)
      var out = try Tensor<Element>(unwrittenShape: shape.outShape.lengths)
      var weights = try Tensor<Element>(unwrittenShape: shape.weightsShape(isAverage: average).lengths)
      try out.withMutableView(Element.type) { (out: TensorView) throws(AttentionError) in
        try weights.withMutableView(Element.type) { (weights: TensorView) throws(AttentionError) in
          try LayerOperator.forward(arguments, out: out, weights: weights, saved: nil)
        }
      }
      return weights
    }
  }

  /// The output, and what `backward` needs.
  /// - Throws: as the call.
  public func forward(_ inputs: Inputs) throws(AttentionError) -> Forward {
    try withArguments(inputs) { (arguments: borrowing LayerArguments) throws(AttentionError) in
      let saved = try LayerMemory(bytes: try LayerOperator.savedBytes(arguments), for: "what backward needs")
      var out = try Tensor<Element>(unwrittenShape: try LayerShape(arguments).outShape.lengths)
      try out.withMutableView(Element.type) { (out: TensorView) throws(AttentionError) in
        try LayerOperator.forward(arguments, out: out, weights: nil, saved: saved.bytes)
      }
      return Forward(out: out, layer: self, inputs: inputs, saved: saved)
    }
  }

  /// The gradients of sum(outGradient * forward.out) by all inputs and all parameters, of the layer as it was in
  /// forward.
  /// - Throws: `AttentionError` when outGradient does not have out's shape; `outOfMemory`.
  public func backward(_ outGradient: Tensor<Element>, of forward: Forward) throws(AttentionError) -> Gradients {
    let (layer, inputs) = (forward.layer, forward.inputs)
    var targets: [Tensor<Element>?] = []
    for input in [inputs.query, inputs.key, inputs.value, inputs.bias] {
      targets.append(try input.map { (input) throws(AttentionError) in try Tensor(unwrittenShape: input.shape) })
    }
    for parameter in LayerParameter.allCases {
      let tensor = layer.parameters[parameter]
      targets.append(
        try tensor.map { (tensor) throws(AttentionError) in try Tensor(repeating: 0, shape: tensor.shape) })
    }
    try layer.withArguments(inputs) { (arguments: borrowing LayerArguments) throws(AttentionError) in
      try outGradient.withView(Element.type) { (outGradient: TensorView) throws(AttentionError) in
        try withMutableViews(&targets) { (views: [TensorView?]) throws(AttentionError) in
          var gradients = LayerGradients()
          (gradients.query, gradients.key, gradients.value, gradients.bias) = (views[0], views[1], views[2], views[3])
          for parameter in LayerParameter.allCases { gradients.parameters[parameter] = views[4 + parameter.rawValue] }
          try LayerOperator.backward(
            arguments, saved: UnsafeRawBufferPointer(forward.saved.bytes), outGradient: outGradient, into: gradients)
        }
      }
    }
    var parameterGradients = LayerTensors<Element>()
    for parameter in LayerParameter.allCases { parameterGradients[parameter] = targets[4 + parameter.rawValue] }
    guard let query = targets[0] else { throw AttentionError(.invalidArgument, "query is missing") }
    return Gradients(
      query: query, key: targets[1], value: targets[2], bias: targets[3], parameters: parameterGradients)
  }

  private func withArguments<Result>(
    _ inputs: Inputs, _ body: (borrowing LayerArguments) throws(AttentionError) -> Result
  ) throws(AttentionError) -> Result {
    let keyLengths = try inputs.keyLengths.map { (lengths) throws(AttentionError) in
      try Tensor(lengths: lengths, batch: Array(inputs.query.shape.dropLast(2)))
    }
    return try withParameters { (parameters: LayerParameterViews) throws(AttentionError) in
      try withViews([inputs.query, inputs.key, inputs.value, inputs.bias]) {
        (views: [TensorView?]) throws(AttentionError) in
        try withView(inputs.mask, .bool) { (mask: TensorView?) throws(AttentionError) in
          try withView(keyLengths, .int64) { (keyLengths: TensorView?) throws(AttentionError) in
            guard let query = views[0] else { throw AttentionError(.invalidArgument, "query is missing") }
            var arguments = LayerArguments(headsQ: numHeads, headsKV: numKVHeads, parameters: parameters, query: query)
            arguments.packed = packed.map { UnsafeRawBufferPointer($0.bytes) }
            (arguments.key, arguments.value, arguments.bias) = (views[1], views[2], views[3])
            (arguments.mask, arguments.keyLengths) = (mask, keyLengths)
            (arguments.causal, arguments.rope, arguments.addsZeroToken) = (inputs.causal, rope, addsZeroToken)
            return try body(arguments)
          }
        }
      }
    }
  }
}
