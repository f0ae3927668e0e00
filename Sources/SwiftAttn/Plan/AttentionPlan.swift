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
  /// scale * log2(e) = queryFactor * scoreFactor. The queries are multiplied once by the first, which must not make a large
  /// query overflow; the scores by the second, which is 1 for every usual scale.
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
    mask = arguments.mask.map { Operand($0, alignedTo: full, as: UInt8.self) }
    bias = arguments.bias.map { Operand($0, alignedTo: full, as: Element.self) }
    leadingKeys = arguments.leadingKeys
    let maskedKeys = geometry.scoreShape.last(1)
    keyLengths = Lengths(arguments.keyLengths, full: maskedKeys)
    queryLengths = Lengths(arguments.queryLengths, full: geometry.seqLenQ)
    try Self.check(keyLengths, geometry, "key_lengths", "Sk", full: maskedKeys)
    try Self.check(queryLengths, geometry, "query_lengths", "Sq", full: geometry.seqLenQ)
    switch arguments.causal {
    case .none: causalOffset = nil
    case .topLeft: causalOffset = 0
    case .bottomRight: causalOffset = maskedKeys - geometry.seqLenQ
    }
    let scale = arguments.scale ?? 1 / Double(max(geometry.headDim, 1)).squareRoot()
    guard scale.isFinite, Element(scale).isFinite, Element(scale) != 0 else {
      throw AttentionError(.invalidArgument, "scale must be finite and not zero")
    }
    self.scale = Element(scale)
    let log2e = 1.4426950408889634
    let foldsIntoQuery = abs(scale) * log2e <= 1
    queryFactor = foldsIntoQuery ? Element(scale * log2e) : 1
    scoreFactor = foldsIntoQuery ? 1 : Element(scale * log2e)
  }

  private static func check(
    _ lengths: Lengths, _ geometry: Geometry, _ name: StaticString, _ limit: StaticString, full: Int
  ) throws(AttentionError) {
    guard lengths.areGiven else { return }
    for batch in 0..<geometry.batches {
      let length = lengths.stored(batch: batch)
      guard 0...full ~= length else {
        throw AttentionError(
          .invalidArgument, "\(name) must lie in 0...\(limit) = \(full), but the one of batch \(batch) is \(length)")
      }
    }
  }
}

/// The lengths of a problem, after checking that the operands agree on them.
struct Geometry: Sendable {
  let batches: Int
  let headsQ: Int
  let headsKV: Int
  let seqLenQ: Int
  let seqLenK: Int
  let headDim: Int
  let valueDim: Int
  /// (B..., Hq, Sq, Sk), of rank 3 or more; Sk without leading keys.
  let scoreShape: Shape
  /// (B..., Hq, Sq, Dv) and (B..., Hq, Sq), of query's rank.
  let outShape: Shape
  let lseShape: Shape
  let batchShape: Shape

  /// Query heads that share a key/value head.
  var groupSize: Int { headsKV == 0 ? 0 : headsQ / headsKV }
  /// Rows of one key/value head: its query heads are packed, queries outermost.
  var rowsPerHead: Int { groupSize * seqLenQ }

  @inline(never)
  init(_ arguments: borrowing AttentionArguments) throws(AttentionError) {
    let (query, key, value) = (arguments.query, arguments.key, arguments.value)
    let rank = query.rank
    guard rank >= 2 else {
      throw AttentionError(.invalidShape, "query must have rank 2 or more, but has shape \(query.shape)")
    }
    try TensorJudge.rank(key, "key", rank)
    try TensorJudge.rank(value, "value", rank)
    seqLenQ = query.shape.last(2)
    seqLenK = key.shape.last(2)
    headDim = query.shape.last(1)
    valueDim = value.shape.last(1)
    headsQ = rank > 2 ? query.shape.last(3) : 1
    headsKV = rank > 2 ? key.shape.last(3) : 1
    (scoreShape, outShape, lseShape, batchShape) = Self.derivedShapes(
      query.shape, seqLenK - arguments.leadingKeys, valueDim)
    let (batches, tooMany) = Self.product(batchShape)
    guard !tooMany else { throw AttentionError(.invalidShape, "query has too many batches: shape \(query.shape)") }
    self.batches = batches
    try checkAgreement(query, key, value)
    try TensorJudge.elements(query, "query", type: nil)
    guard query.type == .float32 || query.type == .float64 else {
      throw AttentionError(
        .invalidElementType, "query has dtype \(query.type.name); attention takes float32 or float64")
    }
    try TensorJudge.elements(key, "key", type: query.type)
    try TensorJudge.elements(value, "value", type: query.type)
    if let mask = arguments.mask { try TensorJudge.broadcast(mask, "mask", to: scoreShape, type: .bool) }
    if let bias = arguments.bias { try TensorJudge.broadcast(bias, "bias", to: scoreShape, type: query.type) }
    try TensorJudge.lengths(arguments.keyLengths, "key_lengths", batchShape)
    try TensorJudge.lengths(arguments.queryLengths, "query_lengths", batchShape)
  }

  /// Rows of a workspace matrix that holds head dims, in whole tiles.
  func paddedHeadDim<Element: AttentionElement>(_: Element.Type) -> Int { Self.padded(headDim, Element.lanes) }
  func paddedValueDim<Element: AttentionElement>(_: Element.Type) -> Int { Self.padded(valueDim, Element.lanes) }
  private static func padded(_ dim: Int, _ lanes: Int) -> Int { (dim + lanes - 1) / lanes * lanes }

  private func checkAgreement(
    _ query: TensorView, _ key: TensorView, _ value: TensorView
  ) throws(AttentionError) {
    guard key.shape.last(1) == headDim else {
      throw AttentionError(.invalidShape, "key has head_dim \(key.shape.last(1)) but query has \(headDim)")
    }
    guard headDim > 0 else { throw AttentionError(.invalidShape, "query has head_dim 0; it must be at least 1") }
    guard value.shape.last(2) == seqLenK else {
      throw AttentionError(.invalidShape, "value has length \(value.shape.last(2)) but key has \(seqLenK)")
    }
    if query.rank > 2 {
      guard value.shape.last(3) == headsKV else {
        throw AttentionError(.invalidShape, "value has \(value.shape.last(3)) heads but key has \(headsKV)")
      }
      guard headsQ == headsKV || (headsKV > 0 && headsQ % headsKV == 0) else {
        throw AttentionError(
          .invalidShape, "query has \(headsQ) heads, which key's \(headsKV) heads do not divide")
      }
    }
    for axis in 0..<batchShape.rank {
      guard key.shape[axis] == query.shape[axis] else {
        throw AttentionError(
          .invalidShape, "key has batch dimensions unlike query's: shapes \(key.shape) and \(query.shape)")
      }
      guard value.shape[axis] == query.shape[axis] else {
        throw AttentionError(
          .invalidShape, "value has batch dimensions unlike query's: shapes \(value.shape) and \(query.shape)")
      }
    }
  }

  /// scoreShape, outShape, lseShape and batchShape.
  private static func derivedShapes(_ query: Shape, _ seqLenK: Int, _ valueDim: Int) -> (Shape, Shape, Shape, Shape) {
    var scores = Shape(rank: max(query.rank, 3))
    var out = query
    var lse = Shape(rank: query.rank - 1)
    var batch = Shape(rank: max(query.rank - 3, 0))
    if query.rank == 2 { scores[0] = 1 }
    for axis in 0..<query.rank {
      scores[axis + scores.rank - query.rank] = query[axis]
      if axis < lse.rank { lse[axis] = query[axis] }
      if axis < batch.rank { batch[axis] = query[axis] }
    }
    scores[scores.rank - 1] = seqLenK
    out[query.rank - 1] = valueDim
    return (scores, out, lse, batch)
  }

  private static func product(_ shape: Shape) -> (Int, overflow: Bool) {
    var product = 1
    for axis in 0..<shape.rank where shape[axis] == 0 { return (0, false) }
    for axis in 0..<shape.rank {
      let (next, overflow) = product.multipliedReportingOverflow(by: shape[axis])
      if overflow { return (0, true) }
      product = next
    }
    return (product, false)
  }
}
