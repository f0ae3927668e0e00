import AttentionBlocks

/// x86-64-v4: 32 registers of one vector each.
enum Target {
  static var isa: StaticString { "avx512" }
  /// Rows x vectors of the main tile.
  static var tile: StaticString { "8x3" }

  /// A square tile, a vector a row, fits the registers, and 8 sums besides.
  static var holdsSquareTile: Bool { true }

  /// 4 columns where that avoids a last column of one; 3 otherwise.
  @inline(__always)
  static func tileVectors(remaining: Int) -> Int {
    remaining % 3 == 0 || remaining == 5 ? 3 : min(remaining, 4)
  }

  /// 8x3 and 6x4 hold 24 sums, 3 or 4 vectors of B and a broadcast. Narrow tiles keep 8 rows: enough independent sums
  /// to hide the latency of FMA.
  @inline(__always)
  static func multiplyColumn<V: LaneVector>(_ product: BlockProduct<V.Scalar>, _ vectors: Int, _: V.Type) {
    switch vectors {
    case 4: multiplyRows(product, TileShape<6, 4>(), V.self)
    case 3: multiplyRows(product, TileShape<8, 3>(), V.self)
    case 2: multiplyRows(product, TileShape<8, 2>(), V.self)
    default: multiplyRows(product, TileShape<8, 1>(), V.self)
    }
  }
}
