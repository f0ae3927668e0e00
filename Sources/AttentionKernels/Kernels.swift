import AttentionBlocks
import CSwiftAttnShims

/// The kernels of this module's instruction set, as tables. The sources are compiled once per instruction set; only the
/// tables leave the module, so no code of one set is ever shared with another.
public enum Kernels {
  public static var isa: StaticString { Target.isa }
  public static var tile: StaticString { Target.tile }
  /// Whether there is a kernel `multiplyTransposed`.
  public static var transposes: Bool { Target.holdsSquareTile }
  public static func float32() -> KernelTable<Float> { table(SIMD16<Float>.self) }
  public static func float64() -> KernelTable<Double> { table(SIMD8<Double>.self) }
}

@inline(__always)
private func table<V: LaneVector>(_: V.Type) -> KernelTable<V.Scalar> {
  KernelTable(
    products: ProductKernels(
      multiply: { multiply($0, V.self) },
      multiplyTransposed: transposingMultiply(V.self),
      multiplyVisibleKeys: { multiplyVisibleKeys($0, $1, V.self) },
      multiplyVisibleQueries: { multiplyVisibleQueries($0, $1, V.self) }),
    layout: LayoutKernels(
      gather: { gather($0, $1, $2, V.self) },
      scatter: { scatter($0, $1, $2, V.self) },
      pack: { pack($0, $1, $2, V.self) },
      rotate: { rotate($0, V.Scalar.self) }),
    scores: ScoreKernels(
      scale: { scaleScores($0, V(repeating: $1)) },
      addBias: { addBias($0, $1, V.self) },
      addBiasGradient: { addBiasGradient($0, $1, V.self) },
      softmax: { softmax($0, $1, V.self) },
      softmaxRows: { softmaxRows($0, $1, V.self) },
      softmaxGradient: { softmaxGradient($0, $1, V.self) },
      dotColumns: { dotColumns($0, $1, rows: $2, vectors: $3, $4, V.self) }),
    masking: MaskingKernels(
      hideByMask: { hideByMask($0, leading: $1, $2) },
      hideByBias: { hideByBias($0, leading: $1, $2, V.self) },
      hasNonFinite: { hasNonFinite($0, rowStride: $1, columnStride: $2, rows: $3, columns: $4, V.self) }))
}

@inline(__always)
private func transposingMultiply<V: LaneVector>(
  _: V.Type
) -> ProductKernels<V.Scalar>.MultiplyTransposed? {
  guard Target.holdsSquareTile else { return nil }
  return { multiplyTransposed($0, packed: $1, V.self) }
}
