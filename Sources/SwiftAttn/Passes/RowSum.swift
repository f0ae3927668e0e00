import AttentionBlocks

/// target[key][d] += sum over a block's rows of weights[key][row] * rows[row][d]: dV from P and dO, dK from dS and Q.
struct RowSum<Element: ComputeElement> {
  /// Keys that are multiplied together where pairs are hidden: each group leaves out the rows that see none of it,
  /// which halves the work on a causal diagonal. A multiple of the rows of every tile.
  private static var keysPerGroup: Int { 24 }

  let weights: LaneMatrix<Element>
  let rows: LaneMatrix<Element>
  let dim: Int
  let target: Operand<Element>
  let block: RowBlock
  let kernels: KernelTable<Element>

  /// Kernels add in place to rows of whole vectors; other rows pass through the staging matrix, in the same order.
  private var addsInPlace: Bool { target.column == 1 && dim % Element.lanes == 0 }

  func add(_ keys: KeyBlock, _ state: BackwardWorkspace<Element>) {
    let destination = target.base + (target.offset(block) + keys.firstKey * target.row)
    guard !addsInPlace else { return add(keys, to: destination, stride: target.row, state) }
    for key in 0..<keys.count { state.keyOffsets[key] = key * target.row }
    kernels.layout.pack(
      ScatteredRows(
        base: destination, offsets: state.keyOffsets, stride: target.column, rows: keys.count, columns: dim),
      state.staging, 1)
    add(keys, to: state.staging.base, stride: state.staging.stride, state)
    for key in 0..<keys.count {
      let (source, row) = (state.staging.row(key), destination + state.keyOffsets[key])
      if target.column == 1 {
        row.copy(from: source, count: dim)
      } else {
        for d in 0..<dim { row[d * target.column] = source[d] }
      }
    }
  }

  private func add(
    _ keys: KeyBlock, to destination: UnsafeMutablePointer<Element>, stride: Int, _ state: BackwardWorkspace<Element>
  ) {
    guard keys.keys.hidesPairs else {
      return kernels.products.multiply(product(keys.keys.first, keys.count, 0..<block.count, destination, stride))
    }
    if kernels.masking.hasNonFinite(rows.base, rows.stride, 1, block.count, dim) {
      let product = product(keys.keys.first, keys.count, 0..<block.count, destination, stride)
      return kernels.products.multiplyVisibleQueries(product, hidden(keys, state.rows))
    }
    for first in Swift.stride(from: 0, to: keys.count, by: Self.keysPerGroup) {
      let count = min(Self.keysPerGroup, keys.count - first)
      let seeing = rowsSeeing(keys.firstKey + first..<keys.firstKey + first + count, state.rows)
      kernels.products.multiply(
        product(keys.keys.first + first, count, seeing, destination + first * stride, stride))
    }
  }

  private func product(
    _ key: Int, _ count: Int, _ seeing: Range<Int>, _ destination: UnsafeMutablePointer<Element>, _ stride: Int
  ) -> BlockProduct<Element> {
    BlockProduct(
      a: weights.row(key) + seeing.lowerBound, rowStride: weights.stride, depthStride: 1, rows: count,
      depth: seeing.count, vectors: Element.vectors(dim), b: rows.row(seeing.lowerBound),
      bStride: rows.stride, c: destination, cStride: stride, start: .accumulator)
  }

  private func hidden(_ keys: KeyBlock, _ rows: BlockRows<Element>) -> PanelScores<Element> {
    PanelScores(
      scores: weights, firstKey: keys.keys.first, endKey: keys.keys.end, vectors: rows.vectors,
      visibility: UnsafePointer(rows.words), visibilityStride: rows.capacity)
  }

  /// The rows from the first to the last that may see one of these keys.
  private func rowsSeeing(_ keys: Range<Int>, _ rows: BlockRows<Element>) -> Range<Int> {
    func sees(_ row: Int) -> Bool {
      rows.endKey[row] > keys.lowerBound && rows.firstKey[row] < keys.upperBound
    }
    var first = 0
    var end = rows.count
    while first < end, !sees(first) { first += 1 }
    while end > first, !sees(end - 1) { end -= 1 }
    return first..<end
  }
}
