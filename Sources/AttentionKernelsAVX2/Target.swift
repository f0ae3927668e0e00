import AttentionBlocks

/// x86-64-v3: 16 registers of half a vector each.
enum Target {
  static var isa: StaticString { "avx2" }
  /// Rows x vectors of the main tile.
  static var tile: StaticString { "6x1" }

  /// A square tile, a vector a row, does not fit the registers.
  static var holdsSquareTile: Bool { false }

  @inline(__always)
  static func tileVectors(remaining: Int) -> Int { 1 }

  /// 6x1 holds 12 registers of sums, 2 of B and a broadcast.
  @inline(__always)
  static func multiplyColumn<V: LaneVector>(_ product: BlockProduct<V.Scalar>, _ vectors: Int, _: V.Type) {
    multiplyRows(product, TileShape<6, 1>(), V.self)
  }
}
