/// A kernel's name by one grammar: dtype.operation.tile.isa, where tile is rows x vectors x lanes of what it keeps in
/// registers. For example f32.multiply.8x3x16.avx512 and f64.softmax.1x1x8.avx2.
public enum KernelId {
  public enum Operation: CaseIterable, Sendable {
    case multiply, multiplyVisibleKeys, multiplyVisibleQueries
    case gather, scatter, pack, rotate
    case scale, addBias, addBiasGradient, softmax, softmaxRows, softmaxGradient, dotColumns
    case hideByMask, hideByBias, hasNonFinite
    /// Not every tier has it.
    case multiplyTransposed

    public var name: StaticString {
      switch self {
      case .multiply: "multiply"
      case .multiplyVisibleKeys: "multiply_visible_keys"
      case .multiplyVisibleQueries: "multiply_visible_queries"
      case .gather: "gather"
      case .scatter: "scatter"
      case .pack: "pack"
      case .rotate: "rotate"
      case .scale: "scale"
      case .addBias: "add_bias"
      case .addBiasGradient: "add_bias_gradient"
      case .softmax: "softmax"
      case .softmaxRows: "softmax_rows"
      case .softmaxGradient: "softmax_gradient"
      case .dotColumns: "dot_columns"
      case .hideByMask: "hide_by_mask"
      case .hideByBias: "hide_by_bias"
      case .hasNonFinite: "has_non_finite"
      case .multiplyTransposed: "multiply_transposed"
      }
    }
  }
}
