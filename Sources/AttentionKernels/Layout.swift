import AttentionBlocks

/// Stack space for one square tile on its way between the caller's rows and the workspace's lanes.
struct TileScratch<V: LaneVector> {
  /// The tile, rows of `V.lanes` elements.
  let tile: UnsafeMutablePointer<V.Scalar>
  /// Where those rows begin.
  let tileOffsets: UnsafeMutablePointer<Int>
  /// Where the rows of a workspace matrix begin.
  let matrixOffsets: UnsafeMutablePointer<Int>
}

@inline(__always)
func withTileScratch<V: LaneVector>(matrixStride: Int, _: V.Type, _ body: (TileScratch<V>) -> Void) {
  withUnsafeTemporaryAllocation(of: V.Scalar.self, capacity: V.lanes &* V.lanes) { tile in
    withUnsafeTemporaryAllocation(of: Int.self, capacity: 2 &* V.lanes) { offsets in
      guard let tile = tile.baseAddress, let offsets = offsets.baseAddress else { return }
      for i in 0..<V.lanes {
        offsets[i] = i &* V.lanes
        offsets[V.lanes &+ i] = i &* matrixStride
      }
      body(TileScratch(tile: tile, tileOffsets: offsets, matrixOffsets: offsets + V.lanes))
    }
  }
}

/// Visits the square tiles of rows x columns as body(row, column, rows in the tile, columns in the tile).
@inline(__always)
func forEachTile(_ rows: Int, _ columns: Int, side: Int, _ body: (Int, Int, Int, Int) -> Void) {
  var row = 0
  while row < rows {
    var column = 0
    while column < columns {
      body(row, column, min(side, rows &- row), min(side, columns &- column))
      column &+= side
    }
    row &+= side
  }
}

/// Transposes a tile of the caller's rows to `destination`, zero where the tile has no rows or columns.
@inline(__always)
func transposeRows<V: LaneVector>(
  _ rows: ScatteredRows<V.Scalar>, row: Int, column: Int,
  to destination: UnsafeMutablePointer<V.Scalar>, _ destinationOffsets: UnsafePointer<Int>,
  _ factor: V.Scalar, _ scratch: TileScratch<V>
) {
  let rowCount = min(V.lanes, rows.rows &- row)
  let columnCount = min(V.lanes, rows.columns &- column)
  let factors = V(repeating: factor)
  if rowCount == V.lanes && columnCount == V.lanes && rows.stride == 1 {
    V.transpose(rows.base + column, rows.offsets + row, to: destination, destinationOffsets, factor: factors)
    return
  }
  if rowCount <= fewRows(V.self) {
    for c in 0..<V.lanes { V.zero.store(destination + destinationOffsets[c]) }
    for r in 0..<rowCount {
      let source = rows.base + (rows.offsets[row &+ r] &+ column &* rows.stride)
      for c in 0..<columnCount { destination[destinationOffsets[c] &+ r] = source[c &* rows.stride] * factor }
    }
    return
  }
  for r in 0..<V.lanes { V.zero.store(scratch.tile + r &* V.lanes) }
  for r in 0..<rowCount {
    let source = rows.base + (rows.offsets[row &+ r] &+ column &* rows.stride)
    for c in 0..<columnCount { scratch.tile[r &* V.lanes &+ c] = source[c &* rows.stride] }
  }
  V.transpose(scratch.tile, scratch.tileOffsets, to: destination, destinationOffsets, factor: factors)
}

/// Up to so many rows of a tile are moved one element after the other, as when a query is alone; twice as
/// many gained nothing.
@inline(__always)
private func fewRows<V: LaneVector>(_: V.Type) -> Int { V.lanes / 8 }

/// matrix[column][row] = rows[row][column] * factor. The matrix has room for whole tiles.
@inline(never)
func gather<V: LaneVector>(
  _ rows: ScatteredRows<V.Scalar>, _ matrix: LaneMatrix<V.Scalar>, _ factor: V.Scalar, _: V.Type
) {
  withTileScratch(matrixStride: matrix.stride, V.self) { scratch in
    forEachTile(rows.rows, rows.columns, side: V.lanes) { row, column, _, _ in
      transposeRows(
        rows, row: row, column: column,
        to: matrix.base + (column &* matrix.stride &+ row), scratch.matrixOffsets, factor, scratch)
    }
  }
}

/// rows[row][column] = matrix[column][row] * factors[row]. The matrix has room for whole tiles.
@inline(never)
func scatter<V: LaneVector>(
  _ matrix: LaneMatrix<V.Scalar>, _ rows: ScatteredRows<V.Scalar>, _ factors: UnsafePointer<V.Scalar>, _: V.Type
) {
  withTileScratch(matrixStride: matrix.stride, V.self) { scratch in
    forEachTile(rows.rows, rows.columns, side: V.lanes) { row, column, rowCount, columnCount in
      let source = matrix.base + (column &* matrix.stride &+ row)
      let factor = V.load(factors + row)
      if rowCount == V.lanes && columnCount == V.lanes && rows.stride == 1 {
        V.transpose(source, scratch.matrixOffsets, to: rows.base + column, rows.offsets + row, factor: factor)
        return
      }
      if rowCount <= fewRows(V.self) {
        for r in 0..<rowCount {
          let destination = rows.base + (rows.offsets[row &+ r] &+ column &* rows.stride)
          for c in 0..<columnCount {
            destination[c &* rows.stride] = source[c &* matrix.stride &+ r] * factors[row &+ r]
          }
        }
        return
      }
      V.transpose(source, scratch.matrixOffsets, to: scratch.tile, scratch.tileOffsets, factor: factor)
      for r in 0..<rowCount {
        let destination = rows.base + (rows.offsets[row &+ r] &+ column &* rows.stride)
        for c in 0..<columnCount { destination[c &* rows.stride] = scratch.tile[r &* V.lanes &+ c] }
      }
    }
  }
}

/// matrix[row][column] = rows[row][column] * factor, zero up to the next whole vector of columns.
@inline(never)
func pack<V: LaneVector>(
  _ rows: ScatteredRows<V.Scalar>, _ matrix: LaneMatrix<V.Scalar>, _ factor: V.Scalar, _: V.Type
) {
  for row in 0..<rows.rows {
    let source = rows.base + rows.offsets[row]
    let destination = matrix.base + row &* matrix.stride
    var column = 0
    if rows.stride == 1 {
      while column &+ V.lanes <= rows.columns {
        (V.load(source + column) * V(repeating: factor)).store(destination + column)
        column &+= V.lanes
      }
    }
    if column < rows.columns {
      let last = (rows.columns &- 1) / V.lanes &* V.lanes
      V.zero.store(destination + last)
    }
    while column < rows.columns {
      destination[column] = source[column &* rows.stride] * factor
      column &+= 1
    }
  }
}
