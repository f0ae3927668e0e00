import AttentionBlocks

/// The vectors of a strip of columns in panels of the tiles' widths.
///
/// A strip that is packed for one product has panels of 3, but 4 where 1 would be left over, and 4 and 4 for 8. A
/// matrix that is packed beforehand (`PackedMatrix`) has panels of 4 throughout: widths of large layers are multiples
/// of 4 vectors, so that a panel belongs to one weight and strips can begin at any.
struct StripPanels<Element: ComputeElement>: Sequence, IteratorProtocol {
  struct Panel {
    let firstVector: Int
    let vectors: Int
  }

  private let total: Int
  private let isPacked: Bool
  private var position = 0

  init(columns: Int, isPacked: Bool) {
    total = Element.vectors(columns)
    self.isPacked = isPacked
  }

  /// The columns of most panels, of which a strip has a whole number.
  static func columns(isPacked: Bool) -> Int { widest(isPacked: isPacked) * Element.lanes }

  private static func widest(isPacked: Bool) -> Int { isPacked ? 4 : BlockSize.vectorsPerPanel }

  mutating func next() -> Panel? {
    let left = total - position
    guard left > 0 else { return nil }
    let panel = Panel(
      firstVector: position, vectors: left == 4 || left == 8 ? 4 : Swift.min(left, Self.widest(isPacked: isPacked)))
    position += panel.vectors
    return panel
  }
}
