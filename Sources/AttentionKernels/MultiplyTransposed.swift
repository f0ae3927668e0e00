import AttentionBlocks
import CSwiftAttnShims

/// C = start + A * B^T for as many rows of A as one register tile takes. B's rows, which are C's lanes, lie along the
/// depth as A's do: the weights of a projection, or the keys of few queries. Returns the number of rows; if more were
/// asked for, `packed` holds B^T, [p][lane].
///
/// Packing B first costs as much as the product of 5 rows at least; a decoding step has one row. Here square tiles of B
/// are transposed on their way into the product of the first rows:
///
///     for each vector of lanes (16 rows of B):
///         for each square tile of the depth:
///             fetch the tile of the next 16 rows into the second level
///             load 16 rows of the tile, transpose                            64 shuffles
///             store them to `packed`, if there are more rows
///             add to the sums of the rows, in the order of the depth          16 products a row
///
/// Bytes: B once, whole cache lines of 16 rows that are far apart, which the processor does not foresee: hence the
/// fetching. On a Zen 4 and one thread, 4 MB of weights in the third level: 79 us for 1 row and 171 for 8 (their
/// products alone: 18 and 142; dot products, which sum in another order: 49). From memory: 172 and 202, without
/// fetching 235 and 409. Tried and dropped: fetching into the first level (97 and 287 us for 1 row), storing every tile
/// there (103 for 1 row, 260 for 8), halves of two rows in a vector, which saves 16 of the 64 shuffles (82 for 1 row,
/// 172 for 8).
///
/// For targets whose registers hold a square tile besides the sums; the others pack B before.
@inline(never)
func multiplyTransposed<V: LaneVector>(
  _ product: BlockProduct<V.Scalar>, packed: LaneMatrix<V.Scalar>, _: V.Type
) -> Int {
  switch product.rows {
  case ...1: multiplyTransposedRows(product, packed, TileShape<1, 1>(), V.self)
  case 2: multiplyTransposedRows(product, packed, TileShape<2, 1>(), V.self)
  case 3: multiplyTransposedRows(product, packed, TileShape<3, 1>(), V.self)
  case 4, 5: multiplyTransposedRows(product, packed, TileShape<4, 1>(), V.self)
  case 6, 7: multiplyTransposedRows(product, packed, TileShape<6, 1>(), V.self)
  default: multiplyTransposedRows(product, packed, TileShape<8, 1>(), V.self)
  }
}

/// Not inlined: each of the six shapes is a loop of its own.
@inline(never)
private func multiplyTransposedRows<V: LaneVector, let rows: Int>(
  _ product: BlockProduct<V.Scalar>, _ packed: LaneMatrix<V.Scalar>, _: TileShape<rows, 1>, _: V.Type
) -> Int {
  for vector in 0..<product.vectors {
    let part = product.columns(from: vector &* V.lanes)
    let b = product.b + vector &* V.lanes &* product.bStride
    var column = product.rows > rows ? packed.base + vector &* V.lanes : nil
    var sums = InlineArray<rows, V>(repeating: V.zero)
    if let start = part.startOfSums {
      for i in 0..<rows { sums[i] = V.load(start.base + i &* start.stride) }
    }
    var step = 0
    while step < product.depth {
      for i in 0..<V.lanes { sa_prefetch_early(b + ((V.lanes &+ i) &* product.bStride &+ step)) }
      let tile = TransposedTile(base: b + step, stride: product.bStride, packed: column, packedStride: packed.stride)
      withUnsafeMutablePointer(to: &sums) {
        let sums = UnsafeMutableRawPointer($0).assumingMemoryBound(to: V.Scalar.self)
        V.multiplyTransposedTile((product.a + step, product.aRowStride), tile, rows: rows, sums)
      }
      column = column.map { $0 + V.lanes &* packed.stride }
      step &+= V.lanes
    }
    for i in 0..<rows { sums[i].store(part.c + i &* part.cStride) }
  }
  return rows
}
