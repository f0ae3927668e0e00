import AttentionBlocks
import CSwiftAttnShims

/// A logical vector of `Scalar.lanes` lanes, of the same width on every instruction set. All SIMD arithmetic of the
/// kernels goes through this protocol, so that what the compiler makes of it can be checked in one place.
protocol LaneVector: SendableMetatype {
  associatedtype Scalar: AttentionElement
  typealias Source = UnsafePointer<Scalar>
  typealias Destination = UnsafeMutablePointer<Scalar>

  init(repeating value: Scalar)
  static func + (a: Self, b: Self) -> Self
  static func - (a: Self, b: Self) -> Self
  static func * (a: Self, b: Self) -> Self
  static func / (a: Self, b: Self) -> Self
  /// a * b + c, in one rounding where the target has FMA.
  static func fma(_ a: Self, _ b: Self, _ c: Self) -> Self
  /// The larger; b where either is NaN.
  static func maximum(_ a: Self, _ b: Self) -> Self
  /// a where x equals y, else b.
  static func whereEqual(_ x: Self, _ y: Self, _ a: Self, _ b: Self) -> Self
  /// a where x exceeds y, else (also where either is NaN) b.
  static func whereGreater(_ x: Self, _ y: Self, _ a: Self, _ b: Self) -> Self
  static func anyUnequal(_ a: Self, _ b: Self) -> Bool
  /// a in the lanes whose word has the bit, else b.
  static func whereBit(_ words: UnsafePointer<UInt32>, _ bit: UInt32, _ a: Self, _ b: Self) -> Self
  /// 2^n from `roundingShift + n`, for whole n from `smallestExponent` (which gives 0) up.
  static func powerOfTwo(shifted: Self) -> Self
  /// 1.5 * 2^(significand bits) plus the exponent's bias: adding it to a number rounds to a whole one and leaves that,
  /// as the exponent of a power of two, in the low bits.
  static var roundingShift: Scalar { get }
  static var smallestExponent: Scalar { get }
  /// 2^r for r in [-1/2, 1/2]; exactly 1 at 0.
  static func exp2Polynomial(_ r: Self) -> Self
  /// Transposes one square tile, each source row multiplied by `factor`; offsets are in elements.
  static func transpose(
    _ source: Source, _ sourceOffsets: UnsafePointer<Int>,
    to destination: Destination, _ destinationOffsets: UnsafePointer<Int>, factor: Self)
  /// The transpose of one square tile, each source row multiplied by `factor`, is added to rows `stride` apart.
  static func addTransposed(
    _ source: Source, _ sourceOffsets: UnsafePointer<Int>, factor: Scalar, to destination: Destination, _ stride: Int)
  /// sums[i] += A's row i times the transpose of one square tile of B, in the order of the depth. `rows` is a constant.
  static func multiplyTransposedTile(
    _ a: (first: Source, stride: Int), _ b: TransposedTile<Scalar>, rows: Int, _ sums: Destination)
  static func biasWord(_ bias: Source, _ stride: Int, _ count: Int) -> UInt64
}

/// A square tile whose rows become lanes.
struct TransposedTile<Scalar> {
  let base: UnsafePointer<Scalar>
  let stride: Int
  /// Where its columns are stored, if anywhere.
  let packed: UnsafeMutablePointer<Scalar>?
  let packedStride: Int
}

extension LaneVector {
  @inline(__always) static var lanes: Int { Scalar.lanes }
  @inline(__always) static var zero: Self { Self(repeating: 0) }

  @inline(__always) static func load(_ source: Source) -> Self {
    UnsafeRawPointer(source).loadUnaligned(as: Self.self)
  }

  @inline(__always) func store(_ destination: Destination) {
    UnsafeMutableRawPointer(destination).storeBytes(of: self, as: Self.self)
  }
}

extension SIMD16: LaneVector where Scalar == Float {
  @inline(__always) static func fma(_ a: Self, _ b: Self, _ c: Self) -> Self { sa_fma_f32(a, b, c) }
  @inline(__always) static func maximum(_ a: Self, _ b: Self) -> Self { sa_max_f32(a, b) }
  @inline(__always) static func whereEqual(_ x: Self, _ y: Self, _ a: Self, _ b: Self) -> Self {
    sa_where_equal_f32(x, y, a, b)
  }
  @inline(__always) static func whereGreater(_ x: Self, _ y: Self, _ a: Self, _ b: Self) -> Self {
    sa_where_greater_f32(x, y, a, b)
  }
  @inline(__always) static func anyUnequal(_ a: Self, _ b: Self) -> Bool { sa_any_unequal_f32(a, b) != 0 }
  @inline(__always)
  static func whereBit(_ words: UnsafePointer<UInt32>, _ bit: UInt32, _ a: Self, _ b: Self) -> Self {
    sa_where_bit_f32(words, bit, a, b)
  }
  @inline(__always) static func powerOfTwo(shifted: Self) -> Self { sa_power_of_two_f32(shifted) }
  @inline(__always) static var roundingShift: Float { 0x1.8p23 + 127 }
  @inline(__always) static var smallestExponent: Float { -127 }
  // Not inlined: a tile takes a hundred cycles, and the kernels that transpose would have a dozen copies of it.
  @inline(never)
  static func transpose(
    _ source: Source, _ sourceOffsets: UnsafePointer<Int>,
    to destination: Destination, _ destinationOffsets: UnsafePointer<Int>, factor: Self
  ) {
    sa_transpose_f32(source, sourceOffsets, destination, destinationOffsets, factor)
  }
  @inline(__always)
  static func addTransposed(
    _ source: Source, _ sourceOffsets: UnsafePointer<Int>, factor: Scalar, to destination: Destination, _ stride: Int
  ) {
    sa_add_transposed_f32(source, sourceOffsets, factor, destination, stride)
  }
  @inline(__always)
  static func multiplyTransposedTile(
    _ a: (first: Source, stride: Int), _ b: TransposedTile<Scalar>, rows: Int, _ sums: Destination
  ) {
    sa_multiply_transposed_tile_f32(a.first, a.stride, b.base, b.stride, b.packed, b.packedStride, CInt(rows), sums)
  }
  @inline(__always)
  static func biasWord(_ bias: Source, _ stride: Int, _ count: Int) -> UInt64 { sa_bias_word_f32(bias, stride, count) }
}

extension SIMD8: LaneVector where Scalar == Double {
  @inline(__always) static func fma(_ a: Self, _ b: Self, _ c: Self) -> Self { sa_fma_f64(a, b, c) }
  @inline(__always) static func maximum(_ a: Self, _ b: Self) -> Self { sa_max_f64(a, b) }
  @inline(__always) static func whereEqual(_ x: Self, _ y: Self, _ a: Self, _ b: Self) -> Self {
    sa_where_equal_f64(x, y, a, b)
  }
  @inline(__always) static func whereGreater(_ x: Self, _ y: Self, _ a: Self, _ b: Self) -> Self {
    sa_where_greater_f64(x, y, a, b)
  }
  @inline(__always) static func anyUnequal(_ a: Self, _ b: Self) -> Bool { sa_any_unequal_f64(a, b) != 0 }
  @inline(__always)
  static func whereBit(_ words: UnsafePointer<UInt32>, _ bit: UInt32, _ a: Self, _ b: Self) -> Self {
    sa_where_bit_f64(words, bit, a, b)
  }
  @inline(__always) static func powerOfTwo(shifted: Self) -> Self { sa_power_of_two_f64(shifted) }
  @inline(__always) static var roundingShift: Double { 0x1.8p52 + 1023 }
  @inline(__always) static var smallestExponent: Double { -1023 }
  // Not inlined: a tile takes a hundred cycles, and the kernels that transpose would have a dozen copies of it.
  @inline(never)
  static func transpose(
    _ source: Source, _ sourceOffsets: UnsafePointer<Int>,
    to destination: Destination, _ destinationOffsets: UnsafePointer<Int>, factor: Self
  ) {
    sa_transpose_f64(source, sourceOffsets, destination, destinationOffsets, factor)
  }
  @inline(__always)
  static func addTransposed(
    _ source: Source, _ sourceOffsets: UnsafePointer<Int>, factor: Scalar, to destination: Destination, _ stride: Int
  ) {
    sa_add_transposed_f64(source, sourceOffsets, factor, destination, stride)
  }
  @inline(__always)
  static func multiplyTransposedTile(
    _ a: (first: Source, stride: Int), _ b: TransposedTile<Scalar>, rows: Int, _ sums: Destination
  ) {
    sa_multiply_transposed_tile_f64(a.first, a.stride, b.base, b.stride, b.packed, b.packedStride, CInt(rows), sums)
  }
  @inline(__always)
  static func biasWord(_ bias: Source, _ stride: Int, _ count: Int) -> UInt64 { sa_bias_word_f64(bias, stride, count) }
}
