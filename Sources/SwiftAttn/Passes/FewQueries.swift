import AttentionBlocks

/// Forward of a block of few queries, as when one token after the other is generated: with keys in the lanes, and head
/// dims in those of the output, where queries would leave most lanes idle (docs/Algorithm.md, "Few queries"). The same
/// bits.
extension ForwardPass {
  /// Of the time with queries in the lanes, 512 keys of 64 dims take on one thread of a Zen 4, f32 with 1 / 4 / 8 rows:
  /// 0.24, 0.54, 0.72 (12 rows 1.01, 16 rows 1.3), AVX2 0.42, 0.54, 0.92; f64 with 1 / 4 rows: 0.40, 0.65, AVX2 0.69,
  /// 0.88 (3 rows 1.06).
  static var fewQueries: Int { Element.lanes / 2 }

  /// The running softmax of all the block's rows over all their keys, and their results.
  func attendFew(
    _ few: FewQueriesWorkspace<Element>, _ state: inout ForwardWorkspace<Element>, _ control: borrowing CallControl,
    participant: Int
  ) {
    prepare(few, &state)
    let panel = Panel(0, of: state.rows)
    let visibility = Visibility(plan, kernels.masking)
    let head = HeadOperands(plan, state.rows.block)
    let start = panel.leastFirst / BlockSize.keys * BlockSize.keys
    for blockStart in stride(from: start, to: panel.mostEnd, by: BlockSize.keys) {
      let count = min(BlockSize.keys, plan.geometry.seqLenK - blockStart)
      let keys = visibility.keys(start: blockStart, count: count, panel: panel, rows: state.rows)
      if !keys.isEmpty { attend(few, &state, panel, KeyBlock(start: blockStart, keys: keys), head) }
      if control.shouldStop(participant: participant) { return }
    }
    store(few, &state)
  }

  /// Queries by rows, scaled; m = -inf, l = 0, o = 0.
  private func prepare(_ few: FewQueriesWorkspace<Element>, _ state: inout ForwardWorkspace<Element>) {
    let count = state.rows.count
    kernels.layout.pack(
      state.rows.scattered(plan.query, columns: plan.geometry.headDim, state.offsets), few.queries,
      plan.queryFactor)
    state.reference.update(repeating: -.infinity, count: count)
    state.sum.update(repeating: 0, count: state.rows.vectors * Element.lanes)
    few.output.fill(rows: count, lanes: few.output.stride, 0)
  }

  /// s = Q K^T, softmax, o += P V.
  private func attend(
    _ few: FewQueriesWorkspace<Element>, _ state: inout ForwardWorkspace<Element>, _ panel: Panel, _ block: KeyBlock,
    _ head: HeadOperands<Element>
  ) {
    let scores = RowScores(
      scores: few.scores, rows: state.rows.count, firstKey: block.keys.first, keys: block.count,
      visibility: block.keys.hidesPairs ? UnsafePointer(state.rows.words) : nil, visibilityStride: state.rows.capacity)
    computeScores(scores, few, &state, block, head)
    if let bias = state.rows.biasRows(head, panel, block) { addBias(bias, scores) }
    kernels.scores.softmaxRows(
      scores,
      SoftmaxState(
        reference: state.reference, headroom: head.headroom, sum: state.sum, output: few.output,
        outputDims: head.value.columns))
    let values = valueRows(few, &state, block, head)
    let product = BlockProduct(
      a: UnsafePointer(few.scores.base), rowStride: few.scores.stride, depthStride: 1, rows: scores.rows,
      depth: scores.keys, vectors: few.output.stride / Element.lanes, b: values.base, bStride: values.stride,
      c: few.output.base, cStride: few.output.stride, start: .accumulator)
    if block.keys.hidesPairs
      && kernels.masking.hasNonFinite(
        head.value.element(block.firstKey, 0), head.value.rowStride, head.value.columnStride, product.depth,
        head.value.columns)
    {
      multiplyVisible(product, scores)
    } else {
      kernels.products.multiply(product)
    }
  }

  /// Keys lie along their rows (`mostFewQueries`). Whole vectors of them are transposed in registers where that is
  /// possible, others through memory.
  private func computeScores(
    _ scores: RowScores<Element>, _ few: FewQueriesWorkspace<Element>, _ state: inout ForwardWorkspace<Element>,
    _ block: KeyBlock, _ head: HeadOperands<Element>
  ) {
    let (key, lanes) = (head.key, Element.lanes)
    let panel = BlockProduct(
      a: UnsafePointer(few.queries.base), rowStride: few.queries.stride, depthStride: 1, rows: scores.rows,
      depth: key.columns, vectors: Element.vectors(scores.keys), b: few.keys.base, bStride: few.keys.stride,
      c: few.scores.base, cStride: few.scores.stride, start: .zero)
    var transposed = 0
    if let multiplyTransposed = kernels.products.multiplyTransposed, key.columns % lanes == 0 {
      transposed = scores.keys / lanes
      var part = panel
      (part.b, part.bStride) = (UnsafePointer(key.element(block.firstKey, 0)), key.rowStride)
      part.vectors = transposed
      let done = multiplyTransposed(part, few.keys)
      if done < part.rows { kernels.products.multiply(panel.rows(done..<part.rows).columns(0..<transposed)) }
    }
    let rest = scores.keys - transposed * lanes
    if rest > 0 {
      for index in 0..<rest { state.keyOffsets[index] = index &* key.rowStride }
      kernels.layout.gather(
        ScatteredRows(
          base: key.element(block.firstKey + transposed * lanes, 0), offsets: state.keyOffsets,
          stride: key.columnStride, rows: rest, columns: key.columns),
        few.keys.lanes(from: transposed * lanes), 1)
      kernels.products.multiply(panel.columns(transposed..<panel.vectors))
    }
    guard head.scoreFactor != 1 else { return }
    kernels.scores.scale(
      PanelScores(
        scores: few.scores, firstKey: 0, endKey: scores.rows, vectors: panel.vectors, visibility: nil,
        visibilityStride: 0), head.scoreFactor)
  }

  /// s += log2(e) * bias; the columns are the last keys. Two roundings, as in the kernel for many queries.
  private func addBias(_ bias: ScatteredRows<Element>, _ scores: RowScores<Element>) {
    for row in 0..<scores.rows {
      let source = bias.base + bias.offsets[row]
      let target = scores.scores.row(row) + (scores.keys - bias.columns)
      for column in 0..<bias.columns { target[column] += source[column &* bias.stride] * Element.log2e }
    }
  }

  /// Values with head dims in whole vectors: where they are, or copied.
  private func valueRows(
    _ few: FewQueriesWorkspace<Element>, _ state: inout ForwardWorkspace<Element>, _ block: KeyBlock,
    _ head: HeadOperands<Element>
  ) -> (base: UnsafePointer<Element>, stride: Int) {
    let (value, first) = (head.value, head.value.element(block.firstKey, 0))
    if value.columns % Element.lanes == 0 { return (UnsafePointer(first), value.rowStride) }
    for index in 0..<block.count { state.keyOffsets[index] = index &* value.rowStride }
    kernels.layout.pack(
      ScatteredRows(
        base: first, offsets: state.keyOffsets, stride: value.columnStride, rows: block.count, columns: value.columns),
      few.values, 1)
    return (UnsafePointer(few.values.base), few.values.stride)
  }

  /// `product` without the hidden pairs, for blocks in which a hidden value may be NaN or infinite: one run of visible
  /// keys after the other, in the same order. Rare, so simple.
  private func multiplyVisible(_ product: BlockProduct<Element>, _ scores: RowScores<Element>) {
    for row in 0..<scores.rows {
      var key = 0
      while key < scores.keys {
        var end = key
        while end < scores.keys && scores.sees(row: row, key: scores.firstKey + end) { end += 1 }
        if end > key {
          var run = product.rows(row..<row + 1)
          run.a += key
          run.b += key * product.bStride
          run.depth = end - key
          kernels.products.multiply(run)
        }
        key = end + 1
      }
    }
  }

  /// out = o / l, and lse.
  private func store(_ few: FewQueriesWorkspace<Element>, _ state: inout ForwardWorkspace<Element>) {
    setFactors(&state)
    let rows = state.rows.scattered(out, columns: plan.geometry.valueDim, state.offsets)
    for row in 0..<rows.rows {
      let (source, factor) = (few.output.row(row), state.factors[row])
      let target = rows.base + rows.offsets[row]
      if rows.stride == 1 {
        for column in 0..<rows.columns { target[column] = source[column] * factor }
      } else {
        for column in 0..<rows.columns { target[column &* rows.stride] = source[column] * factor }
      }
    }
    storeLse(&state)
  }
}

// Inlined, because the plan would be copied for a call.
extension AttentionPlan {
  /// Blocks of at most so many rows have keys in the lanes. Keys and values must lie along their rows: to bring others
  /// there took four times as long. Less than a vector of keys or dims was slower too (8 dims, 32 keys, 1 row: 1.1),
  /// and dims that are not whole vectors gain less (100 dims, 512 keys, 1 / 4 / 8 rows: 0.78, 0.9, 1.2).
  @inline(__always) var mostFewQueries: Int {
    guard key.column == 1, value.column == 1, min(geometry.seqLenK, geometry.headDim) >= Element.lanes else { return 0 }
    let few = ForwardPass<Element>.fewQueries
    return geometry.headDim % Element.lanes == 0 ? few : few / 2
  }

  /// What the rows of a head cost, in vectors of queries; nil: as many as they fill.
  @inline(__always) var vectorsOfWork: Double? {
    let rows = geometry.rowsPerHead
    return rows <= mostFewQueries ? 0.2 + Double(rows) / Double(Element.lanes) : nil
  }
}

extension BlockProduct {
  fileprivate func rows(_ range: Range<Int>) -> Self {
    var part = rows(from: range.lowerBound)
    part.rows = range.count
    return part
  }

  /// Counted in vectors.
  fileprivate func columns(_ range: Range<Int>) -> Self {
    var part = columns(from: range.lowerBound * Element.lanes)
    part.vectors = range.count
    return part
  }
}

/// For blocks of few queries, in the memory of the matrices that other blocks have.
struct FewQueriesWorkspace<Element: ComputeElement> {
  /// [row][d], scaled, padded to whole vectors.
  let queries: LaneMatrix<Element>
  /// [d][key], until the scores are computed.
  let keys: LaneMatrix<Element>
  /// [row][key]
  let scores: LaneMatrix<Element>
  /// Values that cannot be read where they are: [key][d], padded. In the memory of the keys.
  let values: LaneMatrix<Element>
  /// [row][d], padded.
  let output: LaneMatrix<Element>

  private static func bytes(_ geometry: Geometry) -> Int {
    let (head, value) = (geometry.paddedHeadDim(Element.self), geometry.paddedValueDim(Element.self))
    let rows = ForwardPass<Element>.fewQueries
    return Workspace.bytes(rows * head, of: Element.self)
      + Workspace.bytes(BlockSize.keys * max(head, value), of: Element.self)
      + Workspace.bytes(rows * BlockSize.keys, of: Element.self) + Workspace.bytes(rows * value, of: Element.self)
  }

  /// Nil where those, from `mark` on, are too small.
  init?(_ geometry: Geometry, from mark: Int, _ workspace: inout Workspace) {
    guard Self.bytes(geometry) <= workspace.used - mark else { return nil }
    workspace.reuse(from: mark)
    let (head, value) = (geometry.paddedHeadDim(Element.self), geometry.paddedValueDim(Element.self))
    let rows = ForwardPass<Element>.fewQueries
    queries = workspace.matrix(rows: rows, stride: head)
    keys = workspace.matrix(rows: max(head, value), stride: BlockSize.keys)
    values = LaneMatrix(base: keys.base, stride: value)
    scores = workspace.matrix(rows: rows, stride: BlockSize.keys)
    output = workspace.matrix(rows: rows, stride: value)
  }
}
