import AttentionBlocks

/// The registry's kernels by name, in a fixed order: all operations of f32, then of f64.
public enum KernelNames {
  public static var count: Int { 2 * KernelId.Operation.allCases.count }

  /// The id of kernel `index` of `set`; see `KernelId`.
  public static func id(_ index: Int, _ set: InstructionSet) -> Message {
    let operations = KernelId.Operation.allCases
    let operation = operations[index % operations.count]
    let isSingle = index < operations.count
    let tile: StaticString = operation == .multiply ? set.tile : "1x1"
    let lanes = isSingle ? Float.lanes : Double.lanes
    let dtype: StaticString = isSingle ? "f32" : "f64"
    return "\(dtype).\(operation.name).\(tile)x\(lanes).\(set.name)"
  }
}
