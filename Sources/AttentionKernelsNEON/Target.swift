import AttentionBlocks

/// AArch64, which always has NEON: 32 registers of a quarter of a vector each.
enum Target {
  static var isa: StaticString { "neon" }
  /// Rows x vectors of the main tile.
  static var tile: StaticString { "6x1" }

  /// A square tile, a vector a row, does not fit the registers.
  static var holdsSquareTile: Bool { false }

  @inline(__always)
  static func tileVectors(remaining: Int) -> Int { 1 }

  /// 6x1 holds 24 registers of sums, 4 of B and 2 for the elements of A, which are broadcast as they are loaded.
  @inline(__always)
  static func multiplyColumn<V: LaneVector>(_ product: BlockProduct<V.Scalar>, _ vectors: Int, _: V.Type) {
    multiplyRows(product, TileShape<6, 1>(), V.self)
  }
}
