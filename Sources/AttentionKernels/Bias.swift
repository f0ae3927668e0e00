import AttentionBlocks
import CSwiftAttnShims

/// Additive bias, value and derivative (docs/Algorithm.md, "Bias"):
///   s = s + bias        in base-2 units: bias * log2(e)
///   dBias = dS          summed over the dimensions along which bias is broadcast

/// scores[key][lane] += log2(e) * bias[lane][key].
@inline(never)
func addBias<V: LaneVector>(_ bias: ScatteredRows<V.Scalar>, _ panel: PanelScores<V.Scalar>, _: V.Type) {
  if hasOneRow(bias) { return addBiasRow(bias, panel, V.self) }
  withTileScratch(matrixStride: V.lanes, V.self) { scratch in
    // The staging tile of transposeRows and its destination must not be the same memory.
    withUnsafeTemporaryAllocation(of: V.Scalar.self, capacity: V.lanes &* V.lanes) { buffer in
      guard let transposed = buffer.baseAddress else { return }
      forEachTile(bias.rows, bias.columns, side: V.lanes) { row, column, rowCount, columnCount in
        let scores = panel.scores.base + ((panel.firstKey &+ column) &* panel.scores.stride &+ row)
        if rowCount == V.lanes && columnCount == V.lanes && bias.stride == 1 {
          fetchNextKeys(bias, row: row, column: column, V.self)
          V.addTransposed(
            bias.base + column, bias.offsets + row, factor: V.Scalar.log2e, to: scores, panel.scores.stride)
          return
        }
        transposeRows(bias, row: row, column: column, to: transposed, scratch.tileOffsets, V.Scalar.log2e, scratch)
        for c in 0..<columnCount {
          let score = scores + c &* panel.scores.stride
          (V.load(score) + V.load(transposed + c &* V.lanes)).store(score)
        }
      }
    }
  }
}

/// The tile in the same place of the next block of keys sets out for the second level of caches: rows lie too far apart
/// for the processor to see them coming, and a whole block of them at once would wait for each other.
@inline(__always)
private func fetchNextKeys<V: LaneVector>(_ bias: ScatteredRows<V.Scalar>, row: Int, column: Int, _: V.Type) {
  for r in row..<row &+ V.lanes { sa_prefetch_early(bias.base + (bias.offsets[r] &+ column &+ BlockSize.keys)) }
}

/// Whether all rows are the same memory, as where a bias hides or favours keys for every query.
@inline(__always)
private func hasOneRow<Scalar>(_ bias: ScatteredRows<Scalar>) -> Bool {
  for row in 1..<max(bias.rows, 1) where bias.offsets[row] != bias.offsets[0] { return false }
  return true
}

@inline(__always)
private func addBiasRow<V: LaneVector>(_ bias: ScatteredRows<V.Scalar>, _ panel: PanelScores<V.Scalar>, _: V.Type) {
  let row = bias.base + bias.offsets[0]
  for column in 0..<bias.columns {
    let summand = V(repeating: row[column &* bias.stride] * V.Scalar.log2e)
    let scores = panel.scores.base + (panel.firstKey &+ column) &* panel.scores.stride
    for vector in 0..<panel.vectors { (V.load(scores + vector &* V.lanes) + summand).store(scores + vector &* V.lanes) }
  }
}

/// rows[lane][key] += dS[key][lane] for the panel's keys. Elements that share memory because bias is broadcast get
/// their sum: first within a tile, then into memory, which keeps long sums accurate.
@inline(never)
func addBiasGradient<V: LaneVector>(
  _ gradient: ScatteredRows<V.Scalar>, _ panel: PanelScores<V.Scalar>, _: V.Type
) {
  withTileScratch(matrixStride: panel.scores.stride, V.self) { scratch in
    forEachTile(gradient.rows, gradient.columns, side: V.lanes) { row, column, rowCount, columnCount in
      let source = panel.scores.base + ((panel.firstKey &+ column) &* panel.scores.stride &+ row)
      if columnCount == V.lanes {
        V.transpose(source, scratch.matrixOffsets, to: scratch.tile, scratch.tileOffsets, factor: V(repeating: 1))
      } else {
        // A whole tile would read past the panel's last key.
        for r in 0..<rowCount {
          for c in 0..<columnCount { scratch.tile[r &* V.lanes &+ c] = source[c &* panel.scores.stride &+ r] }
          for c in columnCount..<V.lanes { scratch.tile[r &* V.lanes &+ c] = 0 }
        }
      }
      for r in 0..<rowCount {
        let values = scratch.tile + r &* V.lanes
        let offset = gradient.offsets[row &+ r]
        if r &+ 1 < rowCount && gradient.offsets[row &+ r &+ 1] == offset {
          (V.load(values) + V.load(values + V.lanes)).store(values + V.lanes)
        } else {
          addRow(
            values, count: columnCount,
            to: gradient.base + (offset &+ column &* gradient.stride), stride: gradient.stride)
        }
      }
    }
  }
}

@inline(__always)
private func addRow<Scalar: AttentionElement>(
  _ values: UnsafePointer<Scalar>, count: Int, to destination: UnsafeMutablePointer<Scalar>, stride: Int
) {
  if stride == 0 {
    var sum: Scalar = 0
    for c in 0..<count { sum += values[c] }
    destination.pointee += sum
  } else {
    for c in 0..<count { destination[c &* stride] += values[c] }
  }
}
