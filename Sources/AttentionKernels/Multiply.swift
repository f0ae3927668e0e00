import AttentionBlocks
import CSwiftAttnShims

/// A register tile's shape: `rows` x `vectors` accumulators stay in registers for the whole depth.
struct TileShape<let rows: Int, let vectors: Int> {}

/// C = start + A * B, cut into columns of vectors (the loop that keeps B's panel in the first-level cache) and rows of
/// tiles.
///
/// Each step of the depth loads `vectors` vectors of B and broadcasts `rows` scalars of A for rows * vectors fused
/// products; the shapes in Target.swift are the largest that leave registers for both without spilling.
///
/// A is read from where the caller has it, often as 8 rows of a weight far apart in the third level or beyond: a
/// pattern that the processor does not foresee. So a tile fetches A for the next one as it goes, a line for every line
/// it uses. A layer's forward gained 1 to 2.5 % of its time where the weights were far (Zen 4, caches shared with
/// strangers).
@inline(never)
func multiply<V: LaneVector>(_ product: BlockProduct<V.Scalar>, _: V.Type) {
  var column = 0
  while column < product.vectors {
    let vectors = Target.tileVectors(remaining: product.vectors &- column)
    Target.multiplyColumn(product.columns(from: column &* V.lanes), vectors, V.self)
    column &+= vectors
  }
}

/// All rows of one column of tiles: whole tiles, then what is left in tiles of 4, 2 and 1 rows.
@inline(__always)
func multiplyRows<V: LaneVector, let rows: Int, let vectors: Int>(
  _ product: BlockProduct<V.Scalar>, _ shape: TileShape<rows, vectors>, _: V.Type
) {
  var row = 0
  while row &+ rows <= product.rows {
    if product.depth >= 128 { prefetchSums(product.rows(from: row &+ rows), shape, V.self) }
    multiplyTile(product.rows(from: row), shape, V.self)
    row &+= rows
  }
  while row &+ 4 <= product.rows {
    multiplyTile(product.rows(from: row), TileShape<4, vectors>(), V.self)
    row &+= 4
  }
  if row &+ 2 <= product.rows {
    multiplyTile(product.rows(from: row), TileShape<2, vectors>(), V.self)
    row &+= 2
  }
  if row < product.rows {
    multiplyTile(product.rows(from: row), TileShape<1, vectors>(), V.self)
  }
}

/// The elements of C that the next tile begins with, which are on their way while this one is computed.
@inline(__always)
func prefetchSums<V: LaneVector, let rows: Int, let vectors: Int>(
  _ product: BlockProduct<V.Scalar>, _: TileShape<rows, vectors>, _: V.Type
) {
  for i in 0..<rows {
    for j in 0..<vectors { sa_prefetch_to_write(product.c + (i &* product.cStride &+ j &* V.lanes)) }
  }
}

@inline(__always)
func multiplyTile<V: LaneVector, let rows: Int, let vectors: Int>(
  _ product: BlockProduct<V.Scalar>, _: TileShape<rows, vectors>, _: V.Type
) {
  var sums = InlineArray<rows, InlineArray<vectors, V>>(repeating: InlineArray<vectors, V>(repeating: V.zero))
  if let start = product.startOfSums {
    for i in 0..<rows {
      for j in 0..<vectors { sums[i][j] = V.load(start.base + (i &* start.stride &+ j &* V.lanes)) }
    }
  }
  var a = product.a
  var b = product.b
  var step = 0
  while step < product.depth {
    // The next tile's A, where each of its rows goes on in one cache line.
    if product.aDepthStride == 1 {
      for i in 0..<rows { sa_prefetch(a + (rows &+ i) &* product.aRowStride) }
    }
    let end = min(step &+ V.lanes, product.depth)
    while step < end {
      // The same where its rows lie in one line.
      if product.aRowStride == 1 { sa_prefetch(a + rows) }
      var lanes = InlineArray<vectors, V>(repeating: V.zero)
      for j in 0..<vectors { lanes[j] = V.load(b + j &* V.lanes) }
      for i in 0..<rows {
        let scalar = V(repeating: a[i &* product.aRowStride])
        for j in 0..<vectors { sums[i][j] = V.fma(scalar, lanes[j], sums[i][j]) }
      }
      a += product.aDepthStride
      b += product.bStride
      step &+= 1
    }
  }
  for i in 0..<rows {
    for j in 0..<vectors { sums[i][j].store(product.c + (i &* product.cStride &+ j &* V.lanes)) }
  }
}

extension BlockProduct {
  /// The rows that the sums begin with; nil: zeros.
  @inline(__always)
  var startOfSums: (base: UnsafePointer<Element>, stride: Int)? {
    switch start {
    case .zero: nil
    case .accumulator: (UnsafePointer(c), cStride)
    case .row(let row): (row, 0)
    }
  }
}
