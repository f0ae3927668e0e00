import AttentionBlocks
import CSwiftAttnShims

/// Turns the rows of queries and keys by their positions, in place; both at once, because they mostly share their
/// angles.
///
/// A sine and a cosine cost about as much as turning 50 numbers, so each is computed once for all heads and sequences.
struct RotaryPass<Element: ComputeElement>: ParallelPass {
  /// Rows of (B..., H, S, D), and the position of the first.
  struct Rows {
    let operand: Operand<Element>
    let heads: Int
    let count: Int
    let offset: Int

    @inline(never)
    init(_ view: TensorView, offset: Int) {
      operand = Operand(view, alignedTo: view.shape, as: Element.self)
      heads = view.shape.last(3)
      count = view.shape.last(2)
      self.offset = offset
    }
  }

  /// Positions of a work item.
  private static var positionsPerItem: Int { 16 }

  let rope: Rope
  /// How many of a head's numbers turn.
  let dim: Int
  let queries: Rows
  let keys: Rows
  let batches: Int
  /// Backward: the derivative of a turn is the turn back.
  let turnsBack: Bool
  let kernels: KernelTable<Element>

  private var positions: Int { max(queries.count, keys.count) }

  mutating func run(_ call: CallSettings) throws(AttentionError) {
    guard batches > 0 else { return }
    let items = (positions + Self.positionsPerItem - 1) / Self.positionsPerItem
    let turned = Double(batches) * Double(queries.count * queries.heads + keys.count * keys.heads) * Double(dim)
    // Half a cycle a number, sines and cosines included.
    let threads = call.participants(cycles: turned / 2, items: items)
    try run(WorkItems(shared: items), call.interruptCheck, participants: threads)
  }

  func run(_ control: borrowing CallControl, participant: Int) {
    let bytes = 3 * Workspace.bytes(dim, of: Double.self)
    guard var workspace = Workspace(bytes: bytes, participant: participant) else { return }
    let angles = Angles(rope, dim, turnsBack: turnsBack, &workspace)
    while let item = control.claim(participant: participant) {
      let first = item * Self.positionsPerItem
      for position in first..<min(first + Self.positionsPerItem, positions) {
        angles.set(position: position + queries.offset)
        turn(queries, position, angles)
        if keys.offset != queries.offset { angles.set(position: position + keys.offset) }
        turn(keys, position, angles)
      }
      if control.shouldStop(participant: participant) { return }
    }
  }

  private func turn(_ rows: Rows, _ position: Int, _ angles: Angles) {
    guard position < rows.count else { return }
    for batch in 0..<batches {
      kernels.layout.rotate(
        RotaryRows(
          base: rows.operand.base + (rows.operand.offset(batch: batch) + position * rows.operand.row), rows: rows.heads,
          stride: rows.operand.head, interleaved: rope.interleaved,
          angles: (count: angles.count, cosines: UnsafePointer(angles.cosines), sines: UnsafePointer(angles.sines))))
    }
  }

  /// The angles at one position, computed in double whatever the element type.
  private struct Angles {
    let count: Int
    let cosines: UnsafeMutablePointer<Element>
    let sines: UnsafeMutablePointer<Element>
    private let frequencies: UnsafeMutablePointer<Double>
    private let sign: Double

    init(_ rope: Rope, _ dim: Int, turnsBack: Bool, _ workspace: inout Workspace) {
      count = dim / 2
      cosines = workspace.take(dim / 2, of: Element.self)
      sines = workspace.take(dim / 2, of: Element.self)
      frequencies = workspace.take(dim / 2, of: Double.self)
      sign = turnsBack ? -1 : 1
      for t in 0..<count { frequencies[t] = sa_pow(rope.base, -2 * Double(t) / Double(dim)) / rope.scaling }
    }

    func set(position: Int) {
      for t in 0..<count {
        let angle = Double(position) * frequencies[t]
        cosines[t] = Element(sa_cos(angle))
        sines[t] = Element(sign * sa_sin(angle))
      }
    }
  }
}
