import AttentionBlocks

/// The registry's kernels by name, in a fixed order: all operations of f32, then of f64.
public enum KernelNames {
  public static func count(_ set: InstructionSet) -> Int { 2 * operations(set) }

  /// The last operation is the one that a tier may lack.
  private static func operations(_ set: InstructionSet) -> Int {
    KernelId.Operation.allCases.count - (set.transposes ? 0 : 1)
  }

  /// The id of kernel `index` of `set`; see `KernelId`.
  public static func id(_ index: Int, _ set: InstructionSet) -> Message {
    let count = operations(set)
    let operation = KernelId.Operation.allCases[index % count]
    let isSingle = index < count
    let tile: StaticString =
      switch operation {
      case .multiply: set.tile
      case .multiplyTransposed: "8x1"
      default: "1x1"
      }
    let lanes = isSingle ? Float.lanes : Double.lanes
    let dtype: StaticString = isSingle ? "f32" : "f64"
    return "\(dtype).\(operation.name).\(tile)x\(lanes).\(set.name)"
  }
}
