import AttentionBlocks

/// Some keys of a head, as one panel needs them.
struct KeyBlock {
  let start: Int
  let keys: PanelKeys

  /// Index of the first needed key in the sequence.
  var firstKey: Int { start + keys.first }
  /// Past the last needed key.
  var endKey: Int { start + keys.end }
  var count: Int { keys.end - keys.first }
}

/// Key and value of one key/value head.
struct HeadOperands<Element: ComputeElement> {
  let key: UnsafeMutablePointer<Element>
  let value: UnsafeMutablePointer<Element>

  init(_ plan: AttentionPlan<Element>, _ block: RowBlock) {
    key = plan.key.base + (plan.key.offset(batch: block.batch) + block.headKV * plan.key.head)
    value = plan.value.base + (plan.value.offset(batch: block.batch) + block.headKV * plan.value.head)
  }
}

extension KernelTable where Element: ComputeElement {
  /// s = scale * log2(e) * K Q^T + log2(e) * bias for one panel; forward and backward get the same bits.
  func computeScores(
    _ plan: AttentionPlan<Element>, _ head: HeadOperands<Element>, _ block: KeyBlock,
    queries: LaneMatrix<Element>, bias: ScatteredRows<Element>?, _ panel: PanelScores<Element>
  ) {
    products.multiply(
      BlockProduct(
        a: head.key + block.firstKey * plan.key.row, rowStride: plan.key.row, depthStride: plan.key.column,
        rows: block.count, depth: plan.geometry.headDim, vectors: panel.vectors,
        b: queries.base, bStride: queries.stride, c: panel.row(block.keys.first), cStride: panel.scores.stride,
        start: .zero))
    if plan.scoreFactor != 1 { scores.scale(panel, plan.scoreFactor) }
    if let bias, bias.columns > 0 { scores.addBias(bias, panel.lastKeys(bias.columns)) }
  }
}

extension LaneMatrix {
  /// The same rows from a later lane on.
  func lanes(from lane: Int) -> Self { LaneMatrix(base: base + lane, stride: stride) }

  func row(_ row: Int) -> UnsafeMutablePointer<Element> { base + row * stride }

  func fill(rows: Int, lanes: Int, _ value: Element) {
    for row in 0..<rows { self.row(row).update(repeating: value, count: lanes) }
  }
}

extension PanelScores {
  func row(_ key: Int) -> UnsafeMutablePointer<Element> { scores.row(key) }

  /// The same without the keys before the last `count`.
  func lastKeys(_ count: Int) -> Self {
    var part = self
    part.firstKey = endKey - count
    return part
  }
}

extension BlockRows {
  /// A panel of `scores`, with its visibility where pairs are hidden.
  func panelScores(_ scores: LaneMatrix<Element>, _ panel: Panel, _ keys: PanelKeys) -> PanelScores<Element> {
    PanelScores(
      scores: scores.lanes(from: panel.lane), firstKey: keys.first, endKey: keys.end, vectors: panel.vectors,
      visibility: keys.hidesPairs ? UnsafePointer(words + panel.lane) : nil, visibilityStride: capacity)
  }

  /// The bias of a panel's rows for the last of some keys: all but the leading ones, which have none.
  func biasRows(_ plan: AttentionPlan<Element>, _ panel: Panel, _ block: KeyBlock) -> ScatteredRows<Element>? {
    guard let bias = plan.bias else { return nil }
    let first = max(block.firstKey - plan.leadingKeys, 0)
    return ScatteredRows(
      base: bias.base + first * bias.column, offsets: biasOffsets + panel.lane, stride: bias.column,
      rows: panel.rows, columns: max(block.endKey - plan.leadingKeys - first, 0))
  }

  /// All the block's rows of an operand; `offsets` is room for where they lie.
  func scattered(
    _ operand: Operand<Element>, columns: Int, _ offsets: UnsafeMutablePointer<Int>
  ) -> ScatteredRows<Element> {
    self.offsets(of: operand, into: offsets)
    return ScatteredRows(base: operand.base, offsets: offsets, stride: operand.column, rows: count, columns: columns)
  }
}
