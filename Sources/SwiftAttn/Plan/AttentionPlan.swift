import AttentionBlocks

/// A judged problem: the arguments fit each other, and everything that the passes need is derived. Made once per call.
struct AttentionPlan<Element: ComputeElement>: Sendable {
  let geometry: Geometry
  let query: Operand<Element>
  let key: Operand<Element>
  let value: Operand<Element>
  let mask: Operand<UInt8>?
  let bias: Operand<Element>?
  let keyLengths: Lengths
  let queryLengths: Lengths
  /// Keys before those that masks, bias and lengths are about (`AttentionArguments`).
  let leadingKeys: Int
  /// Query i may see keys j <= i + causalOffset, not counting leading ones; nil: all.
  let causalOffset: Int?
  let scale: Element
  /// scale * log2(e) = queryFactor * scoreFactor. The queries are multiplied once by the first, which must not make a
  /// large query overflow; the scores by the second, which is 1 for every usual scale.
  let queryFactor: Element
  let scoreFactor: Element
  /// log2 of the number of keys, rounded up; see `SoftmaxState`.
  var headroom: Element { Element(Int.bitWidth - max(geometry.seqLenK - 1, 0).leadingZeroBitCount) }

  @inline(never)
  init(_ arguments: borrowing AttentionArguments) throws(AttentionError) {
    geometry = try Geometry(arguments)
    let full = geometry.scoreShape
    query = Operand(arguments.query, alignedTo: full, as: Element.self)
    key = Operand(arguments.key, alignedTo: full, as: Element.self)
    value = Operand(arguments.value, alignedTo: full, as: Element.self)
    mask = Operand(optional: arguments.mask, alignedTo: full)
    bias = Operand(optional: arguments.bias, alignedTo: full)
    leadingKeys = arguments.leadingKeys
    keyLengths = Lengths(arguments.keyLengths, geometry, full: geometry.maskedKeys)
    queryLengths = Lengths(arguments.queryLengths, geometry, full: geometry.seqLenQ)
    try keyLengths.check(geometry, "key_lengths", "Sk")
    try queryLengths.check(geometry, "query_lengths", "Sq")
    switch arguments.causal {
    case .none: causalOffset = nil
    case .topLeft: causalOffset = 0
    case .bottomRight: causalOffset = geometry.maskedKeys - geometry.seqLenQ
    }
    let scale = arguments.scale ?? 1 / Double(max(geometry.headDim, 1)).squareRoot()
    guard scale.isFinite, Element(scale * Double.log2e).isFinite, Element(scale) != 0 else {
      throw AttentionError(
        .invalidArgument, "scale must be finite and not zero as \(Element.type.name), also when multiplied by log2(e)")
    }
    self.scale = Element(scale)
    let foldsIntoQuery = abs(scale) * Double.log2e <= 1
    queryFactor = foldsIntoQuery ? Element(scale * Double.log2e) : 1
    scoreFactor = foldsIntoQuery ? 1 : Element(scale * Double.log2e)
  }
}

/// The lengths of a problem, after checking that the operands agree on them.
struct Geometry: Sendable {
  let batches: Int
  let headsKV: Int
  let seqLenQ: Int
  let seqLenK: Int
  let headDim: Int
  let valueDim: Int
  /// Keys that masks, bias and lengths are about: all but the leading ones.
  let maskedKeys: Int
  private let queryShape: Shape

  var headsQ: Int { queryShape.rank > 2 ? queryShape.last(3) : 1 }

  /// (B..., Hq, Sq, Sk), of rank 3 or more; Sk without leading keys.
  var scoreShape: Shape {
    guard queryShape.rank == 2 else { return queryShape.dropping(1).appending(maskedKeys) }
    return Shape(rank: 0).appending(1).appending(queryShape[0]).appending(maskedKeys)
  }

  /// (B..., Hq, Sq, Dv), of query's rank.
  var outShape: Shape {
    var shape = queryShape
    shape[shape.rank - 1] = valueDim
    return shape
  }

  /// (B..., Hq, Sq)
  var lseShape: Shape { firstAxes(queryShape.rank - 1) }
  /// (B...)
  var batchShape: Shape { firstAxes(max(queryShape.rank - 3, 0)) }

  private func firstAxes(_ count: Int) -> Shape {
    var shape = Shape(rank: count)
    for axis in 0..<count { shape[axis] = queryShape[axis] }
    return shape
  }

  /// Query heads that share a key/value head.
  var groupSize: Int { headsKV == 0 ? 0 : headsQ / headsKV }
  /// Rows of one key/value head: its query heads are packed, queries outermost.
  var rowsPerHead: Int { groupSize * seqLenQ }

  @inline(never)
  init(_ arguments: borrowing AttentionArguments) throws(AttentionError) {
    queryShape = arguments.query.shape
    let rank = queryShape.rank
    guard rank >= 2 else {
      throw AttentionError(.invalidShape, "query must have rank 2 or more, but has shape \(queryShape)")
    }
    try TensorJudge.rank(arguments.key, "key", rank)
    try TensorJudge.rank(arguments.value, "value", rank)
    seqLenQ = queryShape.last(2)
    seqLenK = arguments.key.shape.last(2)
    maskedKeys = seqLenK - arguments.leadingKeys
    headDim = queryShape.last(1)
    valueDim = arguments.value.shape.last(1)
    headsKV = rank > 2 ? arguments.key.shape.last(3) : 1
    let (batches, tooMany) = Self.productOfBatches(queryShape)
    guard !tooMany else { throw AttentionError(.invalidShape, "query has too many batches: shape \(queryShape)") }
    self.batches = batches
    try checkAgreement(key: arguments.key.shape, value: arguments.value.shape)
    try TensorJudge.elements(arguments.query, "query", type: nil)
    let type = arguments.query.type
    guard type == .float32 || type == .float64 else {
      throw AttentionError(.invalidElementType, "query has dtype \(type.name); attention takes float32 or float64")
    }
    try TensorJudge.elements(arguments.key, "key", type: type)
    try TensorJudge.elements(arguments.value, "value", type: type)
    if let mask = arguments.mask { try TensorJudge.broadcast(mask, "mask", to: scoreShape, type: .bool) }
    if let bias = arguments.bias { try TensorJudge.broadcast(bias, "bias", to: scoreShape, type: type) }
    if let lengths = arguments.keyLengths { try TensorJudge.lengths(lengths, "key_lengths", batchShape) }
    if let lengths = arguments.queryLengths { try TensorJudge.lengths(lengths, "query_lengths", batchShape) }
  }

  /// Rows of a workspace matrix that holds head dims, in whole tiles.
  func paddedHeadDim<Element: AttentionElement>(_: Element.Type) -> Int { Element.padded(headDim) }
  func paddedValueDim<Element: AttentionElement>(_: Element.Type) -> Int { Element.padded(valueDim) }

  private func checkAgreement(key: Shape, value: Shape) throws(AttentionError) {
    guard key.last(1) == headDim else {
      throw AttentionError(.invalidShape, "key has head_dim \(key.last(1)) but query has \(headDim)")
    }
    guard headDim > 0 else { throw AttentionError(.invalidShape, "query has head_dim 0; it must be at least 1") }
    try TensorJudge.sequences(query: queryShape, key: key, value: value, batchRank: max(queryShape.rank - 3, 0))
    if queryShape.rank > 2 {
      guard value.last(3) == headsKV else {
        throw AttentionError(.invalidShape, "value has \(value.last(3)) heads but key has \(headsKV)")
      }
      guard headsQ == headsKV || (headsKV > 0 && headsQ % headsKV == 0) else {
        throw AttentionError(
          .invalidShape, "query has \(headsQ) heads, which key's \(headsKV) heads do not divide")
      }
    }
  }

  private static func productOfBatches(_ query: Shape) -> (Int, overflow: Bool) {
    let batchRank = max(query.rank - 3, 0)
    var product = 1
    for axis in 0..<batchRank where query[axis] == 0 { return (0, false) }
    for axis in 0..<batchRank {
      let (next, overflow) = product.multipliedReportingOverflow(by: query[axis])
      if overflow { return (0, true) }
      product = next
    }
    return (product, false)
  }
}
