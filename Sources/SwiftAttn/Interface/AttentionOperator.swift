import AttentionBlocks

/// The operator on views: judge, plan, partition, run. Everything above it (C ABI, arrays) only translates.
public enum AttentionOperator {
  /// Computes out, and lse unless nil; `AttentionArguments` has the shapes. Nothing is written before all is judged.
  /// - Throws: `AttentionError` naming the argument when shapes, types or memory do not fit; `outOfMemory`,
  ///   `interrupted`, after which out is unspecified.
  public static func forward(
    _ arguments: borrowing AttentionArguments, out: TensorView, lse: TensorView?
  ) throws(AttentionError) {
    let environment = FloatEnvironment.enterDefault()
    defer { environment.restore() }
    switch arguments.query.type {
    case .float64: try forward(arguments, out: out, lse: lse, Double.self)
    default: try forward(arguments, out: out, lse: lse, Float.self)
    }
  }

  private static func forward<Element: ComputeElement>(
    _ arguments: borrowing AttentionArguments, out: TensorView, lse: TensorView?, _: Element.Type
  ) throws(AttentionError) {
    let plan = try AttentionPlan<Element>(arguments)
    let geometry = plan.geometry
    var outputs = OutputJudge<4>()
    try outputs.admit(out, "out", shape: geometry.outShape, type: Element.type)
    try outputs.admit(lse, "lse", shape: geometry.lseShape, type: Element.type)
    try outputs.keepClear(of: arguments)
    try run(plan, out: out, lse: lse, CallSettings(arguments.interruptCheck))
  }

  /// Forward of a judged problem into judged outputs.
  @inline(never)
  static func run<Element: ComputeElement>(
    _ plan: AttentionPlan<Element>, out: TensorView, lse: TensorView?, _ call: CallSettings
  ) throws(AttentionError) {
    let (geometry, full) = (plan.geometry, plan.geometry.scoreShape)
    // There may be more heads without rows than can be counted to.
    guard geometry.rowsPerHead > 0 else { return }
    var pass = ForwardPass(
      plan: plan, out: Operand(out, alignedTo: full, as: Element.self),
      lse: Operand(optional: lse?.withTrailingAxis, alignedTo: full),
      kernels: Element.kernels(call.instructionSet),
      partition: Partition(geometry, rowsPerBlock: geometry.rowsPerBlock(Element.self)))
    let participants = call.participants(
      geometry, vectors: plan.vectorsOfWork, items: pass.partition.forwardCount, Element.self)
    try pass.run(
      pass.partition.forwardItems(threads: participants), call.interruptCheck, participants: participants)
  }

  /// Computes the gradients that are not nil. Nothing is written before all is judged.
  /// - Throws: as forward; after `outOfMemory` and `interrupted` the gradients are unspecified.
  public static func backward(
    _ arguments: borrowing AttentionArguments, _ results: AttentionResults, into gradients: AttentionGradients
  ) throws(AttentionError) {
    let environment = FloatEnvironment.enterDefault()
    defer { environment.restore() }
    switch arguments.query.type {
    case .float64: try backward(arguments, results, gradients, Double.self)
    default: try backward(arguments, results, gradients, Float.self)
    }
  }

  private static func backward<Element: ComputeElement>(
    _ arguments: borrowing AttentionArguments, _ results: AttentionResults, _ gradients: AttentionGradients,
    _: Element.Type
  ) throws(AttentionError) {
    let plan = try AttentionPlan<Element>(arguments)
    let geometry = plan.geometry
    try TensorJudge.exact(results.out, "out", shape: geometry.outShape, type: Element.type)
    try TensorJudge.exact(results.lse, "lse", shape: geometry.lseShape, type: Element.type)
    try TensorJudge.exact(results.outGradient, "dout", shape: geometry.outShape, type: Element.type)
    try judge(gradients, arguments, results, Element.type)
    try run(plan, results, into: gradients, CallSettings(arguments.interruptCheck))
  }

  /// Backward of a judged problem into judged gradients.
  @inline(never)
  static func run<Element: ComputeElement>(
    _ plan: AttentionPlan<Element>, _ results: AttentionResults, into gradients: AttentionGradients,
    _ call: CallSettings
  ) throws(AttentionError) {
    let (geometry, full) = (plan.geometry, plan.geometry.scoreShape)
    func operand(_ view: TensorView) -> Operand<Element> { Operand(view, alignedTo: full, as: Element.self) }
    let scoreGradient = ScoreGradient(
      plan: plan, lse: operand(results.lse.withTrailingAxis), out: operand(results.out),
      outGradient: operand(results.outGradient), kernels: Element.kernels(call.instructionSet),
      needsGradient: gradients.query != nil || gradients.key != nil || gradients.bias != nil)
    let partition = Partition(geometry, rowsPerBlock: geometry.rowsPerBlock(Element.self))
    // Without rows or keys they are empty, though perhaps of more heads than can be counted to.
    let haveElements = geometry.rowsPerHead > 0 || geometry.seqLenK > 0
    if haveElements, gradients.query != nil || gradients.key != nil || gradients.value != nil {
      try run(scoreGradient, gradients, partition, call)
    }
    if let bias = gradients.bias {
      var pass = PairSumPass(
        quantity: .scoreGradient, scoreGradient: scoreGradient, target: operand(bias), partition: partition)
      try pass.run(into: bias, call)
    }
  }

  /// The softmax of a judged problem, from lse, into judged `weights` (B..., Hq or 1, Sq, Sk): one head stands for the
  /// average over all. The leading keys come last in it.
  @inline(never)
  static func computeWeights<Element: ComputeElement>(
    _ plan: AttentionPlan<Element>, lse: TensorView, into weights: TensorView, _ call: CallSettings
  ) throws(AttentionError) {
    let (geometry, full) = (plan.geometry, plan.geometry.scoreShape)
    let target = Operand(weights, alignedTo: full, as: Element.self)
    let lse = Operand(lse.withTrailingAxis, alignedTo: full, as: Element.self)
    let averages = weights.shape.last(3) == 1
    var pass = PairSumPass(
      quantity: .probability(factor: averages ? 1 / Element(geometry.headsQ) : 1),
      scoreGradient: ScoreGradient(
        plan: plan, lse: lse, out: nil, outGradient: nil, kernels: Element.kernels(call.instructionSet),
        needsGradient: false),
      target: target, partition: Partition(geometry, rowsPerBlock: geometry.rowsPerBlock(Element.self)))
    try pass.run(into: weights, call)
  }

  private static func run<Element: ComputeElement>(
    _ scoreGradient: ScoreGradient<Element>, _ gradients: AttentionGradients, _ partition: Partition,
    _ call: CallSettings
  ) throws(AttentionError) {
    let full = scoreGradient.plan.geometry.scoreShape
    let sumsOverRows = gradients.key != nil || gradients.value != nil
    let threads = call.participants(
      scoreGradient.plan.geometry, items: partition.heads * partition.blocksPerHead, Element.self)
    let queue = BackwardPartition(partition, threads: threads, sumsOverRows: sumsOverRows)
    guard
      let turns = TurnCounters(
        heads: sumsOverRows ? queue.sharedHeads : 0,
        keyBlocks: BackwardPass<Element>.keyBlocks(scoreGradient.plan.geometry))
    else { throw .noMemory }
    var pass = BackwardPass(
      scoreGradient: scoreGradient, queryGradient: Operand(optional: gradients.query, alignedTo: full),
      keyGradient: Operand(optional: gradients.key, alignedTo: full),
      valueGradient: Operand(optional: gradients.value, alignedTo: full),
      partition: queue, turns: turns)
    try pass.run(queue.items, call.interruptCheck, participants: threads)
  }

  @inline(never)
  private static func judge(
    _ gradients: AttentionGradients, _ arguments: borrowing AttentionArguments, _ results: AttentionResults,
    _ type: ElementType
  ) throws(AttentionError) {
    var outputs = OutputJudge<4>()
    try outputs.admit(gradients.query, "query gradient", shape: arguments.query.shape, type: type)
    try outputs.admit(gradients.key, "key gradient", shape: arguments.key.shape, type: type)
    try outputs.admit(gradients.value, "value gradient", shape: arguments.value.shape, type: type)
    if let gradient = gradients.bias {
      guard let bias = arguments.bias else {
        throw AttentionError(.invalidArgument, "a bias gradient was asked for, but there is no bias")
      }
      try outputs.admit(gradient, "bias gradient", shape: bias.shape, type: type)
    }
    try outputs.keepClear(of: arguments)
    try outputs.keepClear(of: results.out, "out")
    try outputs.keepClear(of: results.lse, "lse")
    try outputs.keepClear(of: results.outGradient, "dout")
  }
}

extension CallSettings {
  /// How many threads are worth it for attention. The rows of a head are padded to whole vectors, unless `vectors` says
  /// what they cost.
  func participants<Element: ComputeElement>(
    _ geometry: Geometry, vectors: Double? = nil, items: Int, _: Element.Type
  ) -> Int {
    let vectors = vectors ?? (Double(geometry.rowsPerHead) / Double(Element.lanes)).rounded(.up)
    let heads = Double(geometry.batches) * Double(geometry.headsKV)
    let products = heads * vectors * Double(geometry.seqLenK) * Double(geometry.headDim + geometry.valueDim)
    return participants(cycles: products / 2, items: items)
  }
}

extension OutputJudge {
  fileprivate mutating func keepClear(of arguments: borrowing AttentionArguments) throws(AttentionError) {
    try keepClear(of: arguments.query, "query")
    try keepClear(of: arguments.key, "key")
    try keepClear(of: arguments.value, "value")
    try keepClear(of: arguments.mask, "mask")
    try keepClear(of: arguments.bias, "bias")
    try keepClear(of: arguments.keyLengths, "key_lengths")
    try keepClear(of: arguments.queryLengths, "query_lengths")
  }
}

extension TensorView {
  /// (..., 1): how a tensor of rows is read as an operand.
  var withTrailingAxis: TensorView {
    var view = self
    view.shape = shape.appending(1)
    view.strides = strides.appending(0)
    return view
  }
}

extension Geometry {
  private static let workspaceLimit = 2 << 20

  /// Two panels, or one where head dims are so large that two would not fit the workspace limit.
  func rowsPerBlock<Element: ComputeElement>(_: Element.Type) -> Int {
    let rows = BlockSize.vectorsPerBlock * Element.lanes
    return ForwardWorkspace<Element>.bytes(self, rows) <= Self.workspaceLimit
      ? rows : BlockSize.vectorsPerPanel * Element.lanes
  }
}
