/// Reads ASCII text from left to right.
struct ByteScanner: ~Escapable {
  private let text: Span<UInt8>
  private(set) var position = 0

  @_lifetime(copy text)
  init(_ text: Span<UInt8>) { self.text = text }

  var isAtEnd: Bool { position == text.count }

  /// The decimal number here, without a sign; nil when there are no digits or it does not fit.
  mutating func number() -> Int? {
    let start = position
    var value = 0
    while position < text.count, 48...57 ~= text[position] {
      let (tenfold, overflow) = value.multipliedReportingOverflow(by: 10)
      let (sum, carry) = tenfold.addingReportingOverflow(Int(text[position] - 48))
      if overflow || carry { return nil }
      value = sum
      position += 1
    }
    return position > start ? value : nil
  }

  /// Whether `expected` stands here; if so, moves past it.
  mutating func skip(_ expected: StaticString) -> Bool { false }
}
