import AttentionBlocks

/// Any processor: 16 registers of a quarter of a vector each on x86-64, where a product also needs one to itself.
enum Target {
  static var isa: StaticString { "baseline" }
  /// Rows x vectors of the main tile.
  static var tile: StaticString { "2x1" }

  /// A square tile, a vector a row, does not fit the registers.
  static var holdsSquareTile: Bool { false }

  @inline(__always)
  static func tileVectors(remaining: Int) -> Int { 1 }

  /// 2x1 holds 8 registers of sums.
  @inline(__always)
  static func multiplyColumn<V: LaneVector>(_ product: BlockProduct<V.Scalar>, _ vectors: Int, _: V.Type) {
    multiplyRows(product, TileShape<2, 1>(), V.self)
  }
}
