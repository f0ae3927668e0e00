import AttentionBlocks

/// Forward of a block of few queries, as when one token after the other is generated: with keys in the lanes, and head dims in
/// those of the output, where queries would leave most lanes idle (docs/Algorithm.md, "Few queries"). The same bits.
extension ForwardPass {
  /// Blocks of at most so many rows. With 64 head dims, 512 keys and one thread (Zen 4), f32: 1 / 4 / 8 rows take 0.24, 0.54 and
  /// 0.72 of the time that they take with queries in the lanes, 12 rows 1.01, 16 rows 1.3; AVX2 0.42, 0.54, 0.92; f64 1 / 4 rows
  /// 0.40 and 0.65, AVX2 0.69 and 0.88, but 3 rows 1.06.
  static var fewQueries: Int { Element.lanes / 2 }

  /// What the rows of a head cost, in vectors of queries; nil: they are not few.
  static func vectorsOfWork(rows: Int) -> Double? {
    rows <= fewQueries ? 0.2 + Double(rows) / Double(Element.lanes) : nil
  }

  /// The running softmax of all the block's rows over all their keys, and their results.
  func attendFew(
    _ state: inout ForwardWorkspace<Element>, _ control: borrowing CallControl, participant: Int
  ) {
    prepareFew(&state)
    let panel = Panel(0, of: state.rows)
    let visibility = Visibility(plan, kernels.masking)
    let head = HeadOperands(plan, state.rows.block)
    let start = min(panel.leastFirst, panel.mostEnd) / BlockSize.keys * BlockSize.keys
    for blockStart in stride(from: start, to: panel.mostEnd, by: BlockSize.keys) {
      let count = min(BlockSize.keys, plan.geometry.seqLenK - blockStart)
      let keys = visibility.keys(start: blockStart, count: count, panel: panel, rows: state.rows)
      if !keys.isEmpty { attendFew(&state, panel, KeyBlock(start: blockStart, keys: keys), head) }
      if control.shouldStop(participant: participant) { return }
    }
    storeFew(&state)
  }

  /// Queries by rows, scaled; m = -inf, l = 0, o = 0.
  private func prepareFew(_ state: inout ForwardWorkspace<Element>) {
    let count = state.rows.count
    kernels.layout.pack(
      state.rows.scattered(plan.query, columns: plan.geometry.headDim, state.offsets), state.few.queries,
      plan.queryFactor)
    state.reference.update(repeating: -.infinity, count: count)
    state.sum.update(repeating: 0, count: state.rows.vectors * Element.lanes)
    state.few.output.fill(rows: count, lanes: state.few.output.stride, 0)
  }

  /// s = Q K^T, softmax, o += P V.
  private func attendFew(
    _ state: inout ForwardWorkspace<Element>, _ panel: Panel, _ block: KeyBlock, _ head: HeadOperands<Element>
  ) {
    let few = state.few
    let scores = RowScores(
      scores: few.scores, rows: state.rows.count, firstKey: block.keys.first, keys: block.count,
      visibility: block.keys.hidesPairs ? UnsafePointer(state.rows.words) : nil,
      visibilityStride: state.rows.capacity)
    computeFewScores(scores, few, block, head)
    if let bias = state.rows.biasRows(head, panel, block) { addBias(bias, scores) }
    kernels.scores.softmaxRows(
      scores,
      SoftmaxState(
        reference: state.reference, headroom: head.headroom, sum: state.sum, output: few.output,
        outputDims: head.value.columns))
    let values = valueRows(few, block, head)
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

  /// Whole vectors of keys are transposed in registers where that is possible, others through memory.
  private func computeFewScores(
    _ scores: RowScores<Element>, _ few: FewQueriesWorkspace<Element>, _ block: KeyBlock, _ head: HeadOperands<Element>
  ) {
    let (key, lanes) = (head.key, Element.lanes)
    let panel = BlockProduct(
      a: UnsafePointer(few.queries.base), rowStride: few.queries.stride, depthStride: 1, rows: scores.rows,
      depth: key.columns, vectors: (scores.keys + lanes - 1) / lanes, b: few.keys.base, bStride: few.keys.stride,
      c: few.scores.base, cStride: few.scores.stride, start: .zero)
    var transposed = 0
    if let multiplyTransposed = kernels.products.multiplyTransposed, key.columnStride == 1, key.columns % lanes == 0 {
      transposed = scores.keys / lanes
      var part = panel
      (part.b, part.bStride) = (UnsafePointer(key.element(block.firstKey, 0)), key.rowStride)
      part.vectors = transposed
      let done = multiplyTransposed(part, few.keys)
      if done < part.rows { kernels.products.multiply(panel.part(rows: done..<part.rows, vectors: 0..<transposed)) }
    }
    let rest = scores.keys - transposed * lanes
    if rest > 0 {
      for index in 0..<rest { few.keyOffsets[index] = index &* key.rowStride }
      kernels.layout.gather(
        ScatteredRows(
          base: key.element(block.firstKey + transposed * lanes, 0), offsets: few.keyOffsets,
          stride: key.columnStride, rows: rest, columns: key.columns),
        few.keys.lanes(from: transposed * lanes), 1)
      kernels.products.multiply(panel.part(rows: 0..<panel.rows, vectors: transposed..<panel.vectors))
    }
    guard head.scoreFactor != 1 else { return }
    kernels.scores.scale(
      PanelScores(
        scores: few.scores, firstKey: 0, endKey: scores.rows, vectors: panel.vectors, visibility: nil,
        visibilityStride: 0), head.scoreFactor)
  }

  /// s += log2(e) * bias; the columns are the last keys. Two roundings, as in the kernel for many queries.
  private func addBias(_ bias: ScatteredRows<Element>, _ scores: RowScores<Element>) {
    let log2e: Element = 1.4426950408889634
    for row in 0..<scores.rows {
      let source = bias.base + bias.offsets[row]
      let target = scores.scores.row(row) + (scores.keys - bias.columns)
      for column in 0..<bias.columns { target[column] += source[column &* bias.stride] * log2e }
    }
  }

  /// Values with head dims in whole vectors: where they are, or copied.
  private func valueRows(
    _ few: FewQueriesWorkspace<Element>, _ block: KeyBlock, _ head: HeadOperands<Element>
  ) -> (base: UnsafePointer<Element>, stride: Int) {
    let (value, first) = (head.value, head.value.element(block.firstKey, 0))
    if value.columnStride == 1 && value.columns % Element.lanes == 0 { return (UnsafePointer(first), value.rowStride) }
    for index in 0..<block.count { few.keyOffsets[index] = index &* value.rowStride }
    kernels.layout.pack(
      ScatteredRows(
        base: first, offsets: few.keyOffsets, stride: value.columnStride, rows: block.count, columns: value.columns),
      few.values, 1)
    return (UnsafePointer(few.values.base), few.values.stride)
  }

  /// `product` without the hidden pairs, for blocks in which a hidden value may be NaN or infinite: one run of visible keys
  /// after the other, in the same order. Rare, so simple.
  private func multiplyVisible(_ product: BlockProduct<Element>, _ scores: RowScores<Element>) {
    for row in 0..<scores.rows {
      var key = 0
      while key < scores.keys {
        var end = key
        while end < scores.keys && scores.sees(row: row, key: scores.firstKey + end) { end += 1 }
        if end > key {
          var run = product.part(rows: row..<row + 1, vectors: 0..<product.vectors)
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
  private func storeFew(_ state: inout ForwardWorkspace<Element>) {
    setFactors(&state)
    let rows = state.rows.scattered(out, columns: plan.geometry.valueDim, state.offsets)
    for row in 0..<rows.rows {
      let (source, factor) = (state.few.output.row(row), state.factors[row])
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

extension BlockProduct {
  /// The product of some rows of A and some vectors of B.
  fileprivate func part(rows: Range<Int>, vectors: Range<Int>) -> Self {
    var part = self
    part.a += rows.lowerBound * aRowStride
    part.b += vectors.lowerBound * Element.lanes
    part.c += rows.lowerBound * cStride + vectors.lowerBound * Element.lanes
    (part.rows, part.vectors) = (rows.count, vectors.count)
    return part
  }
}

/// A workspace's part for blocks of few queries.
struct FewQueriesWorkspace<Element: ComputeElement> {
  /// [row][d], scaled, padded to whole vectors.
  let queries: LaneMatrix<Element>
  /// [d][key]
  let keys: LaneMatrix<Element>
  /// [row][key]
  let scores: LaneMatrix<Element>
  /// Values that cannot be read where they are: [key][d], padded.
  let values: LaneMatrix<Element>
  /// [row][d], padded.
  let output: LaneMatrix<Element>
  let keyOffsets: UnsafeMutablePointer<Int>

  static func bytes(_ geometry: Geometry) -> Int {
    let (head, value) = (geometry.paddedHeadDim(Element.self), geometry.paddedValueDim(Element.self))
    let rows = ForwardPass<Element>.fewQueries
    return Workspace.bytes(rows * head, of: Element.self) + Workspace.bytes(head * BlockSize.keys, of: Element.self)
      + Workspace.bytes(rows * BlockSize.keys, of: Element.self)
      + Workspace.bytes(BlockSize.keys * value, of: Element.self) + Workspace.bytes(rows * value, of: Element.self)
      + Workspace.bytes(BlockSize.keys, of: Int.self)
  }

  init(_ geometry: Geometry, _ workspace: inout Workspace) {
    let (head, value) = (geometry.paddedHeadDim(Element.self), geometry.paddedValueDim(Element.self))
    let rows = ForwardPass<Element>.fewQueries
    queries = workspace.matrix(rows: rows, stride: head)
    keys = workspace.matrix(rows: head, stride: BlockSize.keys)
    scores = workspace.matrix(rows: rows, stride: BlockSize.keys)
    values = workspace.matrix(rows: BlockSize.keys, stride: value)
    output = workspace.matrix(rows: rows, stride: value)
    keyOffsets = workspace.take(BlockSize.keys, of: Int.self)
  }
}
