import AttentionBlocks
import CSwiftAttnShims

/// Attention forward over one block of queries after the other (docs/Algorithm.md, "Forward").
struct ForwardPass<Element: ComputeElement>: ~Copyable, ParallelPass {
  let plan: AttentionPlan<Element>
  let out: Operand<Element>
  let lse: Operand<Element>?
  let kernels: KernelTable<Element>
  let partition: Partition

  func run(_ control: borrowing CallControl, participant: Int) {
    let bytes = ForwardWorkspace<Element>.bytes(plan.geometry, partition.rowsPerBlock)
    guard var workspace = Workspace(bytes: bytes, participant: participant) else { return }
    var state = ForwardWorkspace<Element>(plan.geometry, partition.rowsPerBlock, &workspace)
    let few =
      partition.rowsOfLastBlock <= plan.mostFewQueries
      ? FewQueriesWorkspace<Element>(plan.geometry, from: state.mark, &workspace) : nil
    while let item = control.claim(participant: participant) {
      state.rows.load(partition.forwardBlock(item), plan)
      if let few, state.rows.count <= Self.fewQueries {
        attendFew(few, &state, control, participant: participant)
      } else {
        attend(&state, control, participant: participant)
      }
    }
  }

  /// The running softmax of all the block's rows over all their keys.
  private func attend(
    _ state: inout ForwardWorkspace<Element>, _ control: borrowing CallControl, participant: Int
  ) {
    prepare(&state)
    var first = Panel(0, of: state.rows)
    var second = Panel(1, of: state.rows)
    let start = min(first.leastFirst, second.leastFirst) / BlockSize.keys * BlockSize.keys
    let end = max(first.mostEnd, second.mostEnd)
    let visibility = Visibility(plan, kernels.masking)
    let head = HeadOperands(plan, state.rows.block)
    for blockStart in stride(from: start, to: end, by: BlockSize.keys) {
      let count = min(BlockSize.keys, plan.geometry.seqLenK - blockStart)
      func attend(_ panel: inout Panel) {
        let keys = visibility.keys(start: blockStart, count: count, panel: panel, rows: state.rows)
        guard !keys.isEmpty else { return }
        self.attend(&state, panel, KeyBlock(start: blockStart, keys: keys), head)
        panel.hasOutput = true
      }
      attend(&first)
      if second.rows > 0 { attend(&second) }
      if control.shouldStop(participant: participant) { return }
    }
    if !first.hasOutput { clearOutput(&state, first) }
    if !second.hasOutput && second.rows > 0 { clearOutput(&state, second) }
    store(&state)
  }

  private func clearOutput(_ state: inout ForwardWorkspace<Element>, _ panel: Panel) {
    state.output.lanes(from: panel.lane).fill(
      rows: plan.geometry.valueDim, lanes: panel.vectors * Element.lanes, 0)
  }

  /// Queries into the lanes, scaled; m = -inf, l = 0. The first product sets o.
  private func prepare(_ state: inout ForwardWorkspace<Element>) {
    kernels.layout.gather(
      state.rows.scattered(plan.query, columns: plan.geometry.headDim, state.offsets), state.queries, plan.queryFactor)
    let lanes = state.rows.vectors * Element.lanes
    state.reference.update(repeating: -.infinity, count: lanes)
    state.sum.update(repeating: 0, count: lanes)
  }

  /// One panel against one block of keys: s = K Q^T, softmax, o += V^T P.
  private func attend(
    _ state: inout ForwardWorkspace<Element>, _ panel: Panel, _ block: KeyBlock, _ head: HeadOperands<Element>
  ) {
    let scores = state.rows.panelScores(state.scores, panel, block.keys)
    kernels.computeScores(
      head, block, queries: state.queries.lanes(from: panel.lane),
      bias: state.rows.biasRows(head, panel, block), scores)
    let output = state.output.lanes(from: panel.lane)
    kernels.scores.softmax(
      scores,
      SoftmaxState(
        reference: state.reference + panel.lane, headroom: head.headroom, sum: state.sum + panel.lane, output: output,
        outputDims: head.value.columns))
    let firstValue = head.value.element(block.firstKey, 0)
    let product = BlockProduct(
      a: firstValue, rowStride: head.value.columnStride, depthStride: head.value.rowStride, rows: head.value.columns,
      depth: block.count, vectors: panel.vectors,
      b: scores.row(block.keys.first), bStride: scores.scores.stride, c: output.base, cStride: output.stride,
      start: panel.hasOutput ? .accumulator : .zero)
    if block.keys.hidesPairs
      && kernels.masking.hasNonFinite(
        firstValue, head.value.rowStride, head.value.columnStride, product.depth, product.rows)
    {
      if !panel.hasOutput { clearOutput(&state, panel) }
      kernels.products.multiplyVisibleKeys(product, scores)
    } else {
      kernels.products.multiply(product)
    }
  }

  /// out = o / l.
  private func store(_ state: inout ForwardWorkspace<Element>) {
    setFactors(&state)
    kernels.layout.scatter(
      state.output, state.rows.scattered(out, columns: plan.geometry.valueDim, state.offsets), state.factors)
    storeLse(&state)
  }

  /// 1 / l, and 0 for rows that see nothing.
  func setFactors(_ state: inout ForwardWorkspace<Element>) {
    for row in 0..<state.rows.vectors * Element.lanes {
      state.factors[row] = state.sum[row] == 0 ? 0 : 1 / state.sum[row]
    }
  }

  /// lse = ln 2 * (m + log2 l), where the whole part of log2 l goes to m, which depends on the headroom: so lse has the
  /// same bits when keys that a row does not see are left away.
  func storeLse(_ state: inout ForwardWorkspace<Element>) {
    guard let lse else { return }
    state.rows.offsets(of: lse, into: state.offsets)
    let ln2 = 0.6931471805599453
    for row in 0..<state.rows.count {
      let sum = Double(state.sum[row])
      let (whole, fraction) = sum.isNormal ? (Double(sum.exponent), sum.significand) : (0, sum)
      let logSumExp = ln2 * (Double(state.reference[row]) + whole + sa_log2(fraction))
      lse.base[state.offsets[row]] = Element(logSumExp)
    }
  }
}

/// Forward's share of a workspace: O(head dim x rows), whatever the length. Handed on inout, though only `rows` change,
/// because it would be copied otherwise.
struct ForwardWorkspace<Element: ComputeElement> {
  var rows: BlockRows<Element>
  let offsets: UnsafeMutablePointer<Int>
  let reference: UnsafeMutablePointer<Element>
  let sum: UnsafeMutablePointer<Element>
  let factors: UnsafeMutablePointer<Element>
  /// [d][lane], scaled.
  let queries: LaneMatrix<Element>
  /// [key][lane]
  let scores: LaneMatrix<Element>
  /// [d][lane]
  let output: LaneMatrix<Element>
  let keyOffsets: UnsafeMutablePointer<Int>
  /// Where in the workspace the three matrices begin.
  let mark: Int

  static func bytes(_ geometry: Geometry, _ capacity: Int) -> Int {
    BlockRows<Element>.bytes(capacity: capacity) + Workspace.bytes(capacity, of: Int.self)
      + 3 * Workspace.bytes(capacity, of: Element.self) + Workspace.bytes(BlockSize.keys, of: Int.self)
      + Workspace.bytes(geometry.paddedHeadDim(Element.self) * capacity, of: Element.self)
      + Workspace.bytes(BlockSize.keys * capacity, of: Element.self)
      + Workspace.bytes(geometry.paddedValueDim(Element.self) * capacity, of: Element.self)
  }

  init(_ geometry: Geometry, _ capacity: Int, _ workspace: inout Workspace) {
    rows = BlockRows(capacity: capacity, &workspace)
    offsets = workspace.take(capacity, of: Int.self)
    reference = workspace.take(capacity, of: Element.self)
    sum = workspace.take(capacity, of: Element.self)
    factors = workspace.take(capacity, of: Element.self)
    keyOffsets = workspace.take(BlockSize.keys, of: Int.self)
    mark = workspace.used
    queries = workspace.matrix(rows: geometry.paddedHeadDim(Element.self), stride: capacity)
    scores = workspace.matrix(rows: BlockSize.keys, stride: capacity)
    output = workspace.matrix(rows: geometry.paddedValueDim(Element.self), stride: capacity)
  }
}
