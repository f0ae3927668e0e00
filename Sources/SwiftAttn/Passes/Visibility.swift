import AttentionBlocks

/// Which keys of one key block a panel needs, answered once for all masks together: causality, lengths, boolean mask
/// and bias of -inf. Empty blocks are skipped, full ones need no masking, and the others get one 64-bit word per row.
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
    let words = rows.seen
    for row in panel.lane..<panel.lane + panel.rows {
      words[row] = Self.ones(min(rows.endKey[row] - start, count)) & ~Self.ones(rows.firstKey[row] - start)
    }
    hide(start: start, count: count, panel: panel, rows: rows)
    var any: UInt64 = 0
    var all = ~UInt64(0)
    for row in panel.lane..<panel.lane + panel.rows {
      any |= words[row]
      all &= words[row]
      store(words[row], row, rows)
    }
    for row in panel.lane + panel.rows..<panel.lane + panel.vectors * Element.lanes { store(0, row, rows) }
    guard any != 0 else { return .none }
    if all == Self.ones(count) { return PanelKeys(first: 0, end: count, hidesPairs: false) }
    return PanelKeys(first: any.trailingZeroBitCount & ~1, end: 64 - any.leadingZeroBitCount, hidesPairs: true)
  }

  /// Takes what mask and bias hide out of the panel's words. They are not about leading keys, which stay.
  private func hide(start: Int, count: Int, panel: Panel, rows: BlockRows<Element>) {
    let leading = max(leadingKeys - start, 0)
    let first = max(start - leadingKeys, 0)
    func part<T>(_ operand: Operand<T>, _ offsets: UnsafeMutablePointer<Int>) -> ScatteredRows<T> {
      ScatteredRows(
        base: operand.base + first * operand.column, offsets: offsets + panel.lane, stride: operand.column,
        rows: panel.rows, columns: count - leading)
    }
    if let mask { masking.hideByMask(part(mask, rows.maskOffsets), leading, rows.seen + panel.lane) }
    if let bias { masking.hideByBias(part(bias, rows.biasOffsets), leading, rows.seen + panel.lane) }
  }

  /// Words for a panel that needed none, because it sees all keys of the block or nothing, but whose neighbour has
  /// some.
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
