import AttentionBlocks

/// How much of each matrix a product has in hand at a time; `MatrixProduct` says why.
struct MatrixBlocking: Equatable, Sendable {
  /// Whether blocks of A are copied. Rows that lie along the depth are read where they are.
  let packsA: Bool
  /// Elements of the depth that are packed at a time.
  let depth: Int
  /// Rows of A that meet all panels of a strip, one panel after the other.
  let rows: Int
  /// The most columns of a strip, whole panels.
  let widest: Int

  /// The longest depths of a block, where A is read in place and where it is copied, in elements of 4 bytes or 8: the
  /// longer, the fewer times C is read and written.
  private static let longestDirect = 512
  private static let longestCopied = 384
  /// The same where C is staged: one block if it can be, so that B need not be packed again for other rows. In bytes,
  /// as a workspace of more than 2 MB is not kept.
  private static let longestStaged = 8 << 10
  /// Bytes of a packed strip. A strip that reads A in place leaves it half of the second level of caches; one that
  /// copies A is wide, to copy it seldom. Tried from 300 to 1000 KB with `swiftattn-benchmark product`.
  private static let directStrip = 400 << 10
  private static let copiedStrip = 800 << 10

  init<Element: ComputeElement>(_ product: MatrixProduct<Element>) {
    let panel = StripPanels<Element>.columns(isPacked: product.packedB != nil)
    packsA = product.a.columnStride != 1
    let isStaged = product.c.columnStride != 1
    let longest = packsA ? Self.longestCopied : Self.longestDirect
    // Blocks of equal length.
    let blocks =
      isStaged && product.depth * MemoryLayout<Element>.stride <= Self.longestStaged
      ? 1 : (product.depth + longest - 1) / longest
    let vectors = Element.vectors(product.depth)
    depth = max((vectors + blocks - 1) / max(blocks, 1), 1) * Element.lanes
    rows = packsA ? 96 : 48
    let strip = (packsA ? Self.copiedStrip : Self.directStrip) / MemoryLayout<Element>.stride
    widest = max(strip / depth / panel, 1) * panel
  }
}
