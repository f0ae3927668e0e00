import AttentionBlocks

/// The gradients of query, key and value, one block of queries after the other (docs/Algorithm.md, "Backward").
struct BackwardPass<Element: ComputeElement>: ~Copyable, ParallelPass {
  let scoreGradient: ScoreGradient<Element>
  let queryGradient: Operand<Element>?
  let keyGradient: Operand<Element>?
  let valueGradient: Operand<Element>?
  let partition: BackwardPartition
  let turns: TurnCounters

  private var plan: AttentionPlan<Element> { scoreGradient.plan }
  private var kernels: KernelTable<Element> { scoreGradient.kernels }
  private var sumsOverRows: Bool { keyGradient != nil || valueGradient != nil }

  static func keyBlocks(_ geometry: Geometry) -> Int { (geometry.seqLenK + BlockSize.keys - 1) / BlockSize.keys }

  func run(_ control: borrowing CallControl, participant: Int) {
    let capacity = partition.partition.rowsPerBlock
    let bytes = BackwardWorkspace<Element>.bytes(plan.geometry, capacity)
    // Others do not wait for one that has claimed nothing.
    guard var workspace = Workspace(bytes: bytes, participant: participant) else { return }
    var state = BackwardWorkspace<Element>(plan.geometry, capacity, &workspace)
    while let item = control.claim(participant: participant) {
      switch partition.item(item) {
      case .wholeHead(let head):
        for index in 0..<partition.partition.blocksPerHead where !control.isStopped {
          let task = BlockTask(head: head, index: index, turn: nil)
          differentiate(task, &state, control, participant: participant)
        }
      case .block(let head, let index):
        let task = BlockTask(head: head, index: index, turn: head - partition.wholeHeads)
        differentiate(task, &state, control, participant: participant)
      }
    }
  }

  /// One block of queries against all the keys it sees.
  private func differentiate(
    _ task: BlockTask, _ state: inout BackwardWorkspace<Element>,
    _ control: borrowing CallControl, participant: Int
  ) {
    let block = partition.partition.block(head: task.head, index: task.index)
    load(block, &state)
    let rows = state.rows
    let panels = (Panel(0, of: rows), Panel(1, of: rows))
    let head = HeadOperands(plan, block)
    for keyBlock in 0..<Self.keyBlocks(plan.geometry) {
      let start = keyBlock * BlockSize.keys
      let span = differentiate(state, panels, start: start, head)
      if sumsOverRows {
        // Blocks of a shared head pass every key block in turn, even those that they do not see.
        if let turn = task.turn, !turns.wait(head: turn, keyBlock: keyBlock, for: task.index, control) { return }
        if task.index == 0 { clear(block, start: start) }
        if !span.isEmpty { addRowSums(state, block, KeyBlock(start: start, keys: span)) }
        if let turn = task.turn { turns.pass(head: turn, keyBlock: keyBlock) }
      }
      if control.shouldStop(participant: participant) { return }
    }
    storeQueryGradient(state)
  }

  private func load(_ block: RowBlock, _ state: inout BackwardWorkspace<Element>) {
    scoreGradient.load(block, &state)
    let (rows, geometry) = (state.rows, plan.geometry)
    if keyGradient != nil {
      kernels.layout.pack(
        rows.scattered(plan.query, columns: geometry.headDim, state.offsets), state.queryRows, plan.scale)
    }
    if valueGradient != nil, let outGradient = scoreGradient.outGradient {
      kernels.layout.pack(
        rows.scattered(outGradient, columns: geometry.valueDim, state.offsets), state.outGradientRows, 1)
    }
    if queryGradient != nil {
      state.queryGradient.fill(rows: geometry.headDim, lanes: rows.vectors * Element.lanes, 0)
    }
  }

  /// P, dS and dQ of both panels against one block of keys; returns the keys that either needed. Within them P and dS
  /// are zero where a panel sees nothing, and the visibility words of both panels are valid if any pair is hidden.
  private func differentiate(
    _ state: BackwardWorkspace<Element>, _ panels: (Panel, Panel), start: Int, _ head: HeadOperands<Element>
  ) -> PanelKeys {
    let count = min(BlockSize.keys, plan.geometry.seqLenK - start)
    let visibility = scoreGradient.visibility
    let first = visibility.keys(start: start, count: count, panel: panels.0, rows: state.rows)
    let second = visibility.keys(start: start, count: count, panel: panels.1, rows: state.rows)
    let span = panels.1.rows == 0 ? first : first.union(second)
    guard !span.isEmpty else { return span }
    differentiate(state, panels.0, KeyBlock(start: start, keys: first), within: span, head)
    if panels.1.rows > 0 { differentiate(state, panels.1, KeyBlock(start: start, keys: second), within: span, head) }
    if span.hidesPairs {
      visibility.completeWords(first, count: count, panel: panels.0, rows: state.rows)
      visibility.completeWords(second, count: count, panel: panels.1, rows: state.rows)
    }
    return span
  }

  private func differentiate(
    _ state: BackwardWorkspace<Element>, _ panel: Panel, _ block: KeyBlock, within span: PanelKeys,
    _ head: HeadOperands<Element>
  ) {
    let lanes = panel.vectors * Element.lanes
    for key in span.first..<span.end where block.keys.isEmpty || key < block.keys.first || key >= block.keys.end {
      (state.scores.row(key) + panel.lane).update(repeating: 0, count: lanes)
      (state.gradients.row(key) + panel.lane).update(repeating: 0, count: lanes)
    }
    guard !block.keys.isEmpty else { return }
    scoreGradient.compute(state, panel, block, head)
    guard queryGradient != nil else { return }
    // dQ += dS K   (forward: s = Q K^T)
    let firstKey = head.key.element(block.firstKey, 0)
    let gradient = state.rows.panelScores(state.gradients, panel, block.keys)
    let product = BlockProduct(
      a: firstKey, rowStride: head.key.columnStride, depthStride: head.key.rowStride, rows: head.key.columns,
      depth: block.count, vectors: panel.vectors, b: gradient.row(block.keys.first), bStride: gradient.scores.stride,
      c: state.queryGradient.base + panel.lane, cStride: state.queryGradient.stride, start: .accumulator)
    if block.keys.hidesPairs
      && kernels.masking.hasNonFinite(
        firstKey, head.key.rowStride, head.key.columnStride, product.depth, product.rows)
    {
      kernels.products.multiplyVisibleKeys(product, gradient)
    } else {
      kernels.products.multiply(product)
    }
  }

  private func addRowSums(_ state: BackwardWorkspace<Element>, _ block: RowBlock, _ keys: KeyBlock) {
    if let valueGradient {
      // dV += P^T dO   (forward: out = P V)
      RowSum(
        weights: state.scores, rows: state.outGradientRows, dim: plan.geometry.valueDim, target: valueGradient,
        block: block, kernels: kernels
      ).add(keys, state)
    }
    if let keyGradient {
      // dK += scale * dS^T Q   (forward: s = scale * Q K^T)
      RowSum(
        weights: state.gradients, rows: state.queryRows, dim: plan.geometry.headDim, target: keyGradient,
        block: block, kernels: kernels
      ).add(keys, state)
    }
  }

  /// The first block of a head finds its gradients unwritten.
  private func clear(_ block: RowBlock, start: Int) {
    let count = min(BlockSize.keys, plan.geometry.seqLenK - start)
    keyGradient?.clear(block, rows: start..<start + count, columns: plan.geometry.headDim)
    valueGradient?.clear(block, rows: start..<start + count, columns: plan.geometry.valueDim)
  }

  /// dQ = scale * (dS K), out of the lanes.
  private func storeQueryGradient(_ state: BackwardWorkspace<Element>) {
    guard let queryGradient else { return }
    let rows = state.rows
    state.factors.update(repeating: plan.scale, count: rows.vectors * Element.lanes)
    kernels.layout.scatter(
      state.queryGradient, rows.scattered(queryGradient, columns: plan.geometry.headDim, state.offsets), state.factors)
  }
}

/// A block of queries of a head; `turn` is the head's index among the shared ones, nil for a head of one thread.
private struct BlockTask {
  let head: Int
  let index: Int
  let turn: Int?
}
