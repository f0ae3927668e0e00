/// The lengths of a layer's problem, after checking that inputs and parameters agree on them.
struct LayerShape {
  let type: ElementType
  let batch: Shape
  let headsQ: Int
  let headsKV: Int
  let headDim: Int
  let valueDim: Int
  let seqLenQ: Int
  /// With the leading keys.
  let seqLenK: Int
  let outWidth: Int
  /// Keys that the layer puts before the given ones: a learned one, then one of zeros.
  let leadingKeys: Int
  /// Whether q, k and v come from the same rows of one input, and so are kept side by side.
  let isFused: Bool

  var queryWidth: Int { headsQ * headDim }
  var keyWidth: Int { headsKV * headDim }
  var valueWidth: Int { headsKV * valueDim }
  var mergedWidth: Int { headsQ * valueDim }
  /// Keys that were given.
  var givenKeys: Int { seqLenK - leadingKeys }

  var batches: Int {
    var product = 1
    for axis in 0..<batch.rank { product *= batch[axis] }
    return product
  }

  /// (B..., Sq, E), and (B..., Hq, Sq, Sk) or (B..., Sq, Sk) with the leading keys.
  var outShape: Shape { batch.appending(seqLenQ).appending(outWidth) }
  /// Of one head, or of their average.
  func weightsShape(isAverage: Bool) -> Shape {
    (isAverage ? batch : batch.appending(headsQ)).appending(seqLenQ).appending(seqLenK)
  }

  /// Lengths above it are refused, so that sums and products of a few of them are not too large to count.
  static let largestWidth = 1 << 30

  init(_ arguments: borrowing LayerArguments) throws(AttentionError) {
    let query = arguments.query
    let key = arguments.key ?? query
    let value = arguments.value ?? key
    type = arguments.parameters[.queryWeight]?.type ?? query.type
    try Self.judge(type)
    try Self.judgeInputs(query, key, value, type)
    (headsQ, headsKV) = (arguments.headsQ, arguments.headsKV)
    guard 1...Self.largestWidth ~= headsQ, headsKV >= 1, headsQ % headsKV == 0 else {
      throw AttentionError(
        .invalidArgument, "num_heads is \(headsQ), which must be a multiple of num_kv_heads, \(headsKV), and at least 1"
      )
    }
    let parameters = ParameterJudge(views: arguments.parameters, type: type)
    headDim = try parameters.headWidth(.queryWeight, heads: headsQ, input: query, "query")
    valueDim = try parameters.headWidth(.valueWeight, heads: headsKV, input: value, "value")
    let (q, k, v) = (headsQ * headDim, headsKV * headDim, headsKV * valueDim)
    try parameters.weight(.keyWeight, rows: k, input: key, "key")
    outWidth = try parameters.judgeOutput(columns: headsQ * valueDim)
    try parameters.vector(.queryBias, q)
    try parameters.vector(.keyBias, k)
    try parameters.vector(.valueBias, v)
    try parameters.vector(.outBias, outWidth)
    try parameters.vector(.keyToken, k)
    try parameters.vector(.valueToken, v)
    let hasToken = arguments.parameters[.keyToken] != nil
    guard hasToken == (arguments.parameters[.valueToken] != nil) else {
      throw AttentionError(.invalidArgument, "key_token and value_token must be given both or neither")
    }
    leadingKeys = (hasToken ? 1 : 0) + (arguments.addsZeroToken ? 1 : 0)
    batch = query.shape.dropping(2)
    seqLenQ = query.shape.last(2)
    seqLenK = key.shape.last(2) + leadingKeys
    isFused = leadingKeys == 0 && key.isSame(as: query) && value.isSame(as: query)
    if let rope = arguments.rope { try judge(rope) }
  }

  fileprivate static func judge(_ type: ElementType) throws(AttentionError) {
    guard type == .float32 || type == .float64 else {
      throw AttentionError(
        .invalidElementType, "query_weight has dtype \(type.name); a layer takes float32 or float64")
    }
  }

  private static func judgeInputs(
    _ query: TensorView, _ key: TensorView, _ value: TensorView, _ type: ElementType
  ) throws(AttentionError) {
    guard query.rank >= 2, query.rank < Shape.maxRank else {
      throw AttentionError(
        .invalidShape, "query must have a rank from 2 to \(Shape.maxRank - 1), but has shape \(query.shape)")
    }
    try TensorJudge.elements(query, "query", type: type)
    try TensorJudge.rank(key, "key", query.rank)
    try TensorJudge.rank(value, "value", query.rank)
    try TensorJudge.elements(key, "key", type: type)
    try TensorJudge.elements(value, "value", type: type)
    try TensorJudge.sequences(query: query.shape, key: key.shape, value: value.shape, batchRank: query.rank - 2)
  }

  private func judge(_ rope: Rope) throws(AttentionError) {
    let dim = rope.dim ?? headDim
    guard dim >= 2, dim <= headDim, dim % 2 == 0 else {
      throw AttentionError(
        .invalidArgument, "rope has dim \(dim), which must be even, at least 2 and at most the head dim, \(headDim)")
    }
    guard rope.base > 0, rope.base.isFinite else {
      throw AttentionError(.invalidArgument, "rope has a base that is not finite and above 0")
    }
    guard rope.scaling > 0, rope.scaling.isFinite else {
      throw AttentionError(.invalidArgument, "rope has a scaling that is not finite and above 0")
    }
    // Whole numbers up to here are exact in double, and sums with a length do not overflow.
    let largest = 1 << 53
    let (offset, keyOffset) = (rope.offset, rope.keyOffset ?? rope.offset)
    guard -largest...largest ~= offset, -largest...largest ~= keyOffset else {
      throw AttentionError(.invalidArgument, "rope has an offset beyond 2^53")
    }
  }
}

extension LayerParameterViews {
  /// The element type of the weights, after checking that all four are there, as matrices of it.
  func judgedType() throws(AttentionError) -> ElementType {
    let type = self[.queryWeight]?.type ?? .float32
    try LayerShape.judge(type)
    let judge = ParameterJudge(views: self, type: type)
    for parameter in LayerParameter.allCases where parameter.isWeight { _ = try judge.matrix(parameter) }
    return type
  }
}

/// What is checked of the parameters one at a time.
private struct ParameterJudge {
  let views: LayerParameterViews
  let type: ElementType

  /// A weight whose rows are `heads` heads, and whose columns are the input's width; returns the width of a head.
  func headWidth(
    _ parameter: LayerParameter, heads: Int, input: TensorView, _ name: StaticString
  ) throws(AttentionError) -> Int {
    let weight = try matrix(parameter)
    let rows = weight.shape[0]
    guard rows > 0, rows % heads == 0 else {
      throw AttentionError(
        .invalidShape, "\(parameter.name) has \(rows) rows, which \(heads) heads do not divide: shape \(weight.shape)")
    }
    try self.weight(parameter, rows: rows, input: input, name)
    return rows / heads
  }

  func weight(
    _ parameter: LayerParameter, rows: Int, input: TensorView, _ name: StaticString
  ) throws(AttentionError) {
    let weight = try matrix(parameter)
    guard weight.shape[0] == rows else {
      throw AttentionError(
        .invalidShape, "\(parameter.name) has shape \(weight.shape) but must have \(rows) rows, the heads' width")
    }
    guard weight.shape[1] == input.shape.last(1) else {
      let (shape, expected) = (input.shape, weight.shape)
      throw AttentionError(
        .invalidShape,
        """
        \(name) has width \(shape.last(1)) but the layer takes \(expected[1]): \
        shapes \(shape) and \(parameter.name) \(expected)
        """)
    }
  }

  /// The output's weight, whose columns are all heads of v; returns the output's width.
  func judgeOutput(columns: Int) throws(AttentionError) -> Int {
    let weight = try matrix(.outWeight)
    guard weight.shape[1] == columns else {
      throw AttentionError(
        .invalidShape, "out_weight has shape \(weight.shape) but must have \(columns) columns, the heads' width")
    }
    return weight.shape[0]
  }

  @inline(never)
  func matrix(_ parameter: LayerParameter) throws(AttentionError) -> TensorView {
    guard let weight = views[parameter] else {
      throw AttentionError(.invalidArgument, "\(parameter.name) is missing")
    }
    guard weight.rank == 2 else {
      throw AttentionError(
        .invalidShape, "\(parameter.name) has shape \(weight.shape) but must have two dimensions")
    }
    try TensorJudge.elements(weight, parameter.name, type: type)
    guard weight.shape[0] <= LayerShape.largestWidth, weight.shape[1] <= LayerShape.largestWidth else {
      throw AttentionError(.invalidShape, "\(parameter.name) is too large: shape \(weight.shape)")
    }
    return weight
  }

  func vector(_ parameter: LayerParameter, _ length: Int) throws(AttentionError) {
    guard let view = views[parameter] else { return }
    var shape = Shape(rank: 1)
    shape[0] = length
    try TensorJudge.exact(view, parameter.name, shape: shape, type: type)
  }
}

extension TensorView {
  /// Whether it is the same memory in the same layout.
  @inline(never)
  func isSame(as other: TensorView) -> Bool {
    guard data == other.data, type == other.type, rank == other.rank else { return false }
    for axis in 0..<rank {
      guard shape[axis] == other.shape[axis] else { return false }
      guard strides[axis] == other.strides[axis] || shape[axis] <= 1 else { return false }
    }
    return true
  }
}
