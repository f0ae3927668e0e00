import AttentionBlocks

/// The part of backward that every gradient needs: P and dS of one panel against one block of keys, recomputed from
/// queries, keys and lse (docs/Algorithm.md, "Backward").
struct ScoreGradient<Element: ComputeElement>: Sendable {
  let plan: AttentionPlan<Element>
  let lse: Operand<Element>
  /// Nil where P alone is wanted.
  let out: Operand<Element>?
  let outGradient: Operand<Element>?
  let kernels: KernelTable<Element>
  /// Whether dS is wanted, or P alone.
  let needsGradient: Bool

  var visibility: Visibility<Element> { Visibility(plan, kernels.masking) }

  /// Brings a block's rows into the lanes, and its lse and -delta.
  func load(_ block: RowBlock, _ state: inout BackwardWorkspace<Element>) {
    state.rows.load(block, plan)
    let (geometry, rows, layout) = (plan.geometry, state.rows, kernels.layout)
    layout.gather(
      rows.scattered(plan.query, columns: geometry.headDim, state.offsets), state.queries, plan.queryFactor)
    let lanes = rows.vectors * Element.lanes
    if needsGradient, let out, let outGradient {
      layout.gather(rows.scattered(outGradient, columns: geometry.valueDim, state.offsets), state.outGradients, 1)
      layout.gather(rows.scattered(out, columns: geometry.valueDim, state.offsets), state.queryGradient, 1)
      // delta = rowsum(dO * O), the sum over keys of P * dP
      kernels.scores.dotColumns(
        state.outGradients, state.queryGradient, geometry.valueDim, rows.vectors, state.minusDelta)
      for row in 0..<lanes { state.minusDelta[row] = -state.minusDelta[row] }
    }
    rows.offsets(of: lse, into: state.offsets)
    for row in 0..<lanes {
      // Rows that attend to nothing, and lanes without a row: 2^(s - inf) = 0.
      let value = row < rows.count ? lse.base[state.offsets[row]] : -.infinity
      state.logSumExp[row] = value == -.infinity ? .infinity : value * Element.log2e
    }
  }

  /// scores <- P, gradients <- dS for the panel's keys.
  func compute(
    _ state: BackwardWorkspace<Element>, _ panel: Panel, _ block: KeyBlock, _ head: HeadOperands<Element>
  ) {
    let scores = state.rows.panelScores(state.scores, panel, block.keys)
    let gradient = state.gradients.lanes(from: panel.lane)
    kernels.computeScores(
      head, block, queries: state.queries.lanes(from: panel.lane),
      bias: state.rows.biasRows(head, panel, block), scores)
    if needsGradient {
      // dP - delta = V dO^T - delta   (forward: out = P V)
      kernels.products.multiply(
        BlockProduct(
          a: head.value.element(block.firstKey, 0), rowStride: head.value.rowStride,
          depthStride: head.value.columnStride, rows: block.count, depth: head.value.columns, vectors: panel.vectors,
          b: state.outGradients.base + panel.lane, bStride: state.outGradients.stride,
          c: gradient.row(block.keys.first), cStride: gradient.stride, start: .row(state.minusDelta + panel.lane)))
    } else {
      for key in block.keys.first..<block.keys.end {
        gradient.row(key).update(repeating: 0, count: panel.vectors * Element.lanes)
      }
    }
    kernels.scores.softmaxGradient(
      scores, SoftmaxGradient(gradient: gradient, logSumExp: state.logSumExp + panel.lane))
  }
}
