/// An element type that attention computes in: `Float` or `Double`.
public protocol AttentionElement: BinaryFloatingPoint, Sendable {
  /// How many of these the kernels' logical vector holds; the same on every instruction set.
  static var lanes: Int { get }
}

extension AttentionElement {
  /// Scores are in base-2 units: a natural one is so many of them.
  @inlinable @inline(__always) public static var log2e: Self { 1.4426950408889634 }
}

extension Float: AttentionElement {
  @inlinable public static var lanes: Int { 16 }
}

extension Double: AttentionElement {
  @inlinable public static var lanes: Int { 8 }
}

extension AttentionElement {
  /// How many vectors so many elements fill, the last perhaps in part.
  @inlinable @inline(__always)
  public static func vectors(_ count: Int) -> Int { (count &+ lanes &- 1) / lanes }

  /// So many elements rounded up to whole vectors.
  @inlinable @inline(__always)
  public static func padded(_ count: Int) -> Int { vectors(count) &* lanes }
}

/// The sizes of the blocks that the problem is cut into. They decide in which order sums are taken, so they are the
/// same on every instruction set: results then agree to the bit.
public enum BlockSize {
  /// A panel of queries is as wide as the widest register tile: 3 vectors leave room for 8 rows in 32 registers.
  public static let vectorsPerPanel = 3
  /// Two panels share each block of keys while it is in the first-level cache, which halves the traffic behind it.
  public static let panelsPerBlock = 2
  public static let vectorsPerBlock = vectorsPerPanel * panelsPerBlock
  /// One 64-bit word of visibility bits per query row.
  public static let keys = 64
}
