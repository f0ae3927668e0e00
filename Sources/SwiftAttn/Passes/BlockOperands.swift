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

/// What every block of one key/value head needs of the plan, which is too large to be handed along each time.
struct HeadOperands<Element: ComputeElement> {
  /// (Sk, D)
  let key: StridedMatrix<Element>
  /// (Sk, Dv)
  let value: StridedMatrix<Element>
  /// As in the plan.
  let scoreFactor: Element
  let headroom: Element
  let leadingKeys: Int
  /// The bias without its rows, whose offsets `BlockRows` has.
  let bias: (base: UnsafeMutablePointer<Element>, column: Int)?

  @inline(__always)
  init(_ plan: AttentionPlan<Element>, _ block: RowBlock) {
    let geometry = plan.geometry
    key = StridedMatrix(
      base: plan.key.base + plan.key.offset(block), rows: geometry.seqLenK, columns: geometry.headDim,
      rowStride: plan.key.row, columnStride: plan.key.column)
    value = StridedMatrix(
      base: plan.value.base + plan.value.offset(block), rows: geometry.seqLenK, columns: geometry.valueDim,
      rowStride: plan.value.row, columnStride: plan.value.column)
    scoreFactor = plan.scoreFactor
    headroom = plan.headroom
    leadingKeys = plan.leadingKeys
    bias = plan.bias.map { ($0.base, $0.column) }
  }
}

extension KernelTable where Element: ComputeElement {
  /// s = scale * log2(e) * K Q^T + log2(e) * bias for one panel; forward and backward get the same bits. Forward of few
  /// queries has a counterpart of its own (`FewQueries.swift`).
  func computeScores(
    _ head: HeadOperands<Element>, _ block: KeyBlock, queries: LaneMatrix<Element>, bias: ScatteredRows<Element>?,
    _ panel: PanelScores<Element>
  ) {
    products.multiply(
      BlockProduct(
        a: head.key.element(block.firstKey, 0), rowStride: head.key.rowStride, depthStride: head.key.columnStride,
        rows: block.count, depth: head.key.columns, vectors: panel.vectors,
        b: queries.base, bStride: queries.stride, c: panel.row(block.keys.first), cStride: panel.scores.stride,
        start: .zero))
    if head.scoreFactor != 1 { scores.scale(panel, head.scoreFactor) }
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
  func biasRows(_ head: HeadOperands<Element>, _ panel: Panel, _ block: KeyBlock) -> ScatteredRows<Element>? {
    guard let bias = head.bias else { return nil }
    let first = max(block.firstKey - head.leadingKeys, 0)
    return ScatteredRows(
      base: bias.base + first * bias.column, offsets: biasOffsets + panel.lane, stride: bias.column,
      rows: panel.rows, columns: max(block.endKey - head.leadingKeys - first, 0))
  }

  /// All the block's rows of an operand; `offsets` is room for where they lie.
  func scattered(
    _ operand: Operand<Element>, columns: Int, _ offsets: UnsafeMutablePointer<Int>
  ) -> ScatteredRows<Element> {
    self.offsets(of: operand, into: offsets)
    return ScatteredRows(base: operand.base, offsets: offsets, stride: operand.column, rows: count, columns: columns)
  }
}
