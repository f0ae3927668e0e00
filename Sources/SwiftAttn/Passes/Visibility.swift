import AttentionBlocks

/// Which keys of one key block a panel needs, answered once for all masks together: causality, lengths, boolean mask and
/// bias of -inf. Empty blocks are skipped, full ones need no masking, and the others get one 64-bit word per row.
struct PanelKeys: Equatable {
  /// Keys of the block, counted from its start; none are needed when `first >= end`. Even, see `softmax`.
  var first: Int
  var end: Int
  /// Whether some pair in first ..< end is hidden; the words then say which.
  var hidesPairs: Bool

  static let none = PanelKeys(first: 0, end: 0, hidesPairs: false)
  var isEmpty: Bool { first >= end }

  /// The keys that either panel needs; pairs are hidden also where only one needs a key.
  func union(_ other: PanelKeys) -> PanelKeys {
    if isEmpty && other.isEmpty { return .none }
    if isEmpty { return PanelKeys(first: other.first, end: other.end, hidesPairs: true) }
    if other.isEmpty { return PanelKeys(first: first, end: end, hidesPairs: true) }
    return PanelKeys(
      first: min(first, other.first), end: max(end, other.end),
      hidesPairs: hidesPairs || other.hidesPairs || self != other)
  }
}

struct Visibility<Element: ComputeElement> {
  let mask: Operand<UInt8>?
  let bias: Operand<Element>?
  let leadingKeys: Int
  let masking: MaskingKernels<Element>

  @inline(__always)
  init(_ plan: AttentionPlan<Element>, _ masking: MaskingKernels<Element>) {
    mask = plan.mask
    bias = plan.bias
    leadingKeys = plan.leadingKeys
    self.masking = masking
  }

  /// `keys` keys starting at `start` against the rows of `panel`.
  func keys(start: Int, count: Int, panel: Panel, rows: BlockRows<Element>) -> PanelKeys {
    if panel.mostEnd <= start || panel.leastFirst >= start + count { return .none }
    let inside = panel.mostFirst <= start && panel.leastEnd >= start + count
    if inside && mask == nil && bias == nil { return PanelKeys(first: 0, end: count, hidesPairs: false) }
    var any: UInt64 = 0
    var all = ~UInt64(0)
    var reader = WordReader(visibility: self, rows: rows, start: start, count: count)
    for row in panel.lane..<panel.lane + panel.rows {
      let word = reader.word(row)
      any |= word
      all &= word
      store(word, row, rows)
    }
    for row in panel.lane + panel.rows..<panel.lane + panel.vectors * Element.lanes { store(0, row, rows) }
    guard any != 0 else { return .none }
    if all == Self.ones(count) { return PanelKeys(first: 0, end: count, hidesPairs: false) }
    return PanelKeys(first: any.trailingZeroBitCount & ~1, end: 64 - any.leadingZeroBitCount, hidesPairs: true)
  }

  /// Words for a panel that needed none, because it sees all keys of the block or nothing, but whose neighbour has some.
  func completeWords(_ keys: PanelKeys, count: Int, panel: Panel, rows: BlockRows<Element>) {
    guard !keys.hidesPairs else { return }
    for row in panel.lane..<panel.lane + panel.vectors * Element.lanes {
      store(keys.isEmpty || row >= panel.lane + panel.rows ? 0 : Self.ones(count), row, rows)
    }
  }

  private func store(_ word: UInt64, _ row: Int, _ rows: BlockRows<Element>) {
    rows.words[row] = UInt32(truncatingIfNeeded: word)
    rows.words[rows.capacity + row] = UInt32(truncatingIfNeeded: word >> 32)
  }

  /// The lowest `count` bits.
  static func ones(_ count: Int) -> UInt64 { count >= 64 ? ~0 : count <= 0 ? 0 : (1 << UInt64(count)) - 1 }
}

/// Reads row after row; rows that share a mask or bias row (broadcasting) share its word.
private struct WordReader<Element: ComputeElement> {
  let visibility: Visibility<Element>
  let rows: BlockRows<Element>
  let start: Int
  let count: Int
  /// Keys of the block that no mask is about, and the first masked key, not counting those.
  private let leading: Int
  private let firstMasked: Int
  private var maskOffset = Int.min
  private var maskWord: UInt64 = 0
  private var biasOffset = Int.min
  private var biasWord: UInt64 = 0

  init(visibility: Visibility<Element>, rows: BlockRows<Element>, start: Int, count: Int) {
    self.visibility = visibility
    self.rows = rows
    self.start = start
    self.count = count
    leading = max(visibility.leadingKeys - start, 0)
    firstMasked = max(start - visibility.leadingKeys, 0)
  }

  mutating func word(_ row: Int) -> UInt64 {
    let beforeEnd = Visibility<Element>.ones(min(rows.endKey[row] - start, count))
    var word = beforeEnd & ~Visibility<Element>.ones(rows.firstKey[row] - start)
    if let mask = visibility.mask {
      if rows.maskOffsets[row] != maskOffset {
        maskOffset = rows.maskOffsets[row]
        maskWord = behindLeading(
          visibility.masking.maskWord(
            mask.base + (maskOffset + firstMasked * mask.column), mask.column, count - leading))
      }
      word &= maskWord
    }
    if let bias = visibility.bias {
      if rows.biasOffsets[row] != biasOffset {
        biasOffset = rows.biasOffsets[row]
        biasWord = behindLeading(
          visibility.masking.biasWord(
            bias.base + (biasOffset + firstMasked * bias.column), bias.column, count - leading))
      }
      word &= biasWord
    }
    return word
  }

  private func behindLeading(_ word: UInt64) -> UInt64 {
    word << UInt64(leading) | Visibility<Element>.ones(leading)
  }
}
