/// Reading the small ASCII texts of the kernel and the environment.
extension Span<UInt8> {
  /// The unsigned decimal number at `position`, which moves past it; nil when there are no digits or it does not fit.
  func number(at position: inout Int) -> Int? {
    let start = position
    var value = 0
    while position < count, UInt8(ascii: "0")...UInt8(ascii: "9") ~= self[position] {
      let (tenfold, tooLarge) = value.multipliedReportingOverflow(by: 10)
      let (sum, stillTooLarge) = tenfold.addingReportingOverflow(Int(self[position] - UInt8(ascii: "0")))
      if tooLarge || stillTooLarge { return nil }
      value = sum
      position += 1
    }
    return position > start ? value : nil
  }

  /// Whether the text within `range` is `expected`.
  func matches(_ expected: StaticString, in range: Range<Int>) -> Bool {
    guard range.count == expected.utf8CodeUnitCount else { return false }
    for offset in 0..<range.count where self[range.lowerBound + offset] != expected.utf8Start[offset] { return false }
    return true
  }

  /// The first place of `byte` within `range`, or the range's end.
  func firstIndex(of byte: UInt8, in range: Range<Int>) -> Int {
    var index = range.lowerBound
    while index < range.upperBound, self[index] != byte { index += 1 }
    return index
  }
}
