import AttentionBlocks

/// A quantity of pairs of a query and a key, summed over the dimensions along which its target is broadcast: dBias =
/// dS, or the probabilities.
///
/// A pass of its own, which recomputes them: each element of the target then belongs to one work item, that adds its
/// terms in a fixed order (batches, heads, queries ascending), whatever the broadcasting and the number of threads; and
/// no array of all scores is needed.
struct PairSumPass<Element: ComputeElement>: ParallelPass {
  enum Quantity {
    /// dS; the target's keys are those that may have a bias.
    case scoreGradient
    /// P, each multiplied by a factor; the target has all keys, the leading ones last.
    case probability(factor: Element)
  }

  let quantity: Quantity
  let scoreGradient: ScoreGradient<Element>
  let target: Operand<Element>
  let partition: Partition

  private var plan: AttentionPlan<Element> { scoreGradient.plan }

  /// One for each batch element, query head and, unless all queries share their part of the target, block of queries.
  /// Those that are not the first to share a part of it find nothing to do.
  var count: Int { plan.geometry.batches * plan.geometry.headsQ * blocksPerTarget }
  private var blocksPerHead: Int { (plan.geometry.seqLenQ + partition.rowsPerBlock - 1) / partition.rowsPerBlock }
  private var sharesRows: Bool { target.row == 0 }
  private var blocksPerTarget: Int { sharesRows ? min(blocksPerHead, 1) : blocksPerHead }

  /// The target's elements in a row that has one for each key.
  private var columns: Int {
    switch quantity {
    case .scoreGradient: plan.geometry.maskedKeys
    case .probability: plan.geometry.seqLenK
    }
  }

  /// `view` is the target's.
  mutating func run(into view: TensorView, _ call: CallSettings) throws(AttentionError) {
    guard count > 0, columns > 0 else { return view.clear(as: Element.self) }
    let threads = call.participants(plan.geometry, items: count, Element.self)
    try run(WorkItems(shared: count), call.interruptCheck, participants: threads)
  }

  func run(_ control: borrowing CallControl, participant: Int) {
    let capacity = partition.rowsPerBlock
    let bytes = BackwardWorkspace<Element>.bytes(plan.geometry, capacity)
    guard var workspace = Workspace(bytes: bytes, participant: participant) else { return }
    var state = BackwardWorkspace<Element>(plan.geometry, capacity, &workspace)
    while let item = control.claim(participant: participant) {
      let head = item / blocksPerTarget % plan.geometry.headsQ
      let batch = item / blocksPerTarget / plan.geometry.headsQ
      if target.isFirst(batch: batch), target.head != 0 || head == 0 {
        let blocks = sharesRows ? 0..<blocksPerHead : item % blocksPerTarget..<item % blocksPerTarget + 1
        addSharing(batch: batch, head: head, blocks, &state, control, participant: participant)
      }
    }
  }

  /// All blocks of rows that add to the same part of the target as these.
  private func addSharing(
    batch: Int, head: Int, _ blocks: Range<Int>, _ state: inout BackwardWorkspace<Element>,
    _ control: borrowing CallControl, participant: Int
  ) {
    clear(batch: batch, head: head, blocks)
    let part = target.offset(batch: batch)
    let heads = target.head == 0 ? 0..<plan.geometry.headsQ : head..<head + 1
    for other in batch..<plan.geometry.batches where target.offset(batch: other) == part {
      for head in heads {
        for block in blocks {
          let first = block * partition.rowsPerBlock
          let rows = RowBlock(
            batch: other, headKV: head / plan.geometry.groupSize, firstHead: head, headCount: 1, firstRow: first,
            count: min(partition.rowsPerBlock, plan.geometry.seqLenQ - first))
          add(rows, &state, control, participant: participant)
          if control.isStopped { return }
        }
      }
    }
  }

  /// Zeroes the part of the target that these blocks add to.
  private func clear(batch: Int, head: Int, _ blocks: Range<Int>) {
    let first = blocks.lowerBound * partition.rowsPerBlock
    let rows = sharesRows ? 0..<1 : first..<min(blocks.upperBound * partition.rowsPerBlock, plan.geometry.seqLenQ)
    let block = RowBlock(batch: batch, headKV: head, firstHead: head, headCount: 1, firstRow: first, count: rows.count)
    target.clear(block, rows: rows, columns: target.column == 0 ? 1 : columns)
  }

  private func add(
    _ block: RowBlock, _ state: inout BackwardWorkspace<Element>, _ control: borrowing CallControl, participant: Int
  ) {
    scoreGradient.load(block, &state)
    state.rows.offsets(of: target, into: state.offsets)
    let head = HeadOperands(plan, block)
    let panels = (Panel(0, of: state.rows), Panel(1, of: state.rows))
    for start in stride(from: 0, to: plan.geometry.seqLenK, by: BlockSize.keys) {
      add(state, panels.0, start: start, head)
      if panels.1.rows > 0 { add(state, panels.1, start: start, head) }
      if control.shouldStop(participant: participant) { return }
    }
  }

  private func add(
    _ state: BackwardWorkspace<Element>, _ panel: Panel, start: Int, _ head: HeadOperands<Element>
  ) {
    let count = min(BlockSize.keys, plan.geometry.seqLenK - start)
    let keys = scoreGradient.visibility.keys(start: start, count: count, panel: panel, rows: state.rows)
    guard !keys.isEmpty else { return }
    let block = KeyBlock(start: start, keys: keys)
    scoreGradient.compute(state, panel, block, head)
    let masked = max(block.firstKey, plan.leadingKeys)..<max(block.endKey, plan.leadingKeys)
    switch quantity {
    case .scoreGradient:
      add(state.gradients, masked, toColumn: masked.lowerBound - plan.leadingKeys, state, panel, block)
    case .probability(let factor):
      let probabilities = state.rows.panelScores(state.scores, panel, keys)
      if factor != 1 { scoreGradient.kernels.scores.scale(probabilities, factor) }
      add(state.scores, masked, toColumn: masked.lowerBound - plan.leadingKeys, state, panel, block)
      let leading = block.firstKey..<max(min(block.endKey, plan.leadingKeys), block.firstKey)
      let last = plan.geometry.seqLenK - plan.leadingKeys
      add(state.scores, leading, toColumn: last + leading.lowerBound, state, panel, block)
    }
  }

  /// Adds what a block holds of some of its keys to as many columns of the target.
  private func add(
    _ values: LaneMatrix<Element>, _ keys: Range<Int>, toColumn column: Int, _ state: BackwardWorkspace<Element>,
    _ panel: Panel, _ block: KeyBlock
  ) {
    guard !keys.isEmpty else { return }
    let rows = ScatteredRows(
      base: target.base + column * target.column, offsets: state.offsets + panel.lane, stride: target.column,
      rows: panel.rows, columns: keys.count)
    let part = PanelKeys(first: keys.lowerBound - block.start, end: keys.upperBound - block.start, hidesPairs: false)
    scoreGradient.kernels.scores.addBiasGradient(rows, state.rows.panelScores(values, panel, part))
  }
}
