/// What was wrong with a call: its kind, and a sentence that names the argument.
public struct AttentionError: Error, Sendable {
  public enum Kind: Sendable {
    case invalidArgument, invalidElementType, invalidShape, outOfMemory, interrupted, unsupportedInstructionSet
  }

  public let kind: Kind
  public let message: Message

  @inline(never)
  public init(_ kind: Kind, _ message: Message) {
    self.kind = kind
    self.message = message
  }
}

/// A short text in place: Embedded Swift has no string formatting, and an error must not need memory. Nothing of it is
/// inlined: there are a hundred errors, and their texts made half of the library's code.
public struct Message: Sendable, ExpressibleByStringInterpolation {
  public typealias StringLiteralType = StaticString
  public static let capacity = 200

  private var bytes = InlineArray<200, UInt8>(repeating: 0)
  public private(set) var count = 0

  @inline(never)
  public init(stringLiteral value: StaticString) { append(value) }
  @inline(never)
  public init(stringInterpolation: Interpolation) { self = stringInterpolation.message }
  fileprivate init() {}

  /// The bytes in UTF-8; those past the capacity are cut off.
  public func withBytes<Result>(_ body: (UnsafeBufferPointer<UInt8>) -> Result) -> Result {
    withUnsafePointer(to: bytes) {
      $0.withMemoryRebound(to: UInt8.self, capacity: Self.capacity) {
        body(UnsafeBufferPointer(start: $0, count: count))
      }
    }
  }

  private mutating func append(_ byte: UInt8) {
    guard count < Self.capacity else { return }
    bytes[count] = byte
    count += 1
  }

  @inline(never)
  fileprivate mutating func append(_ text: StaticString) {
    for i in 0..<text.utf8CodeUnitCount { append(text.utf8Start[i]) }
  }

  @inline(never)
  fileprivate mutating func append(_ value: Int) {
    if value < 0 { append(UInt8(ascii: "-")) }
    var divisor: UInt = 1
    while value.magnitude / divisor >= 10 { divisor *= 10 }
    while divisor > 0 {
      append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: value.magnitude / divisor % 10))
      divisor /= 10
    }
  }

  public struct Interpolation: StringInterpolationProtocol {
    public typealias StringLiteralType = StaticString
    fileprivate var message = Message()

    @inline(never)
    public init(literalCapacity: Int, interpolationCount: Int) {}
    @inline(never)
    public mutating func appendLiteral(_ literal: StaticString) { message.append(literal) }
    @inline(never)
    public mutating func appendInterpolation(_ text: StaticString) { message.append(text) }
    @inline(never)
    public mutating func appendInterpolation(_ value: Int) { message.append(value) }

    /// A shape as Python prints it: (2, 8, 16, 64).
    @inline(never)
    public mutating func appendInterpolation(_ shape: Shape) {
      message.append("(")
      for axis in 0..<shape.rank {
        if axis > 0 { message.append(", ") }
        message.append(shape[axis])
      }
      message.append(shape.rank == 1 ? ",)" : ")")
    }

    /// Bytes of unknown origin, such as an environment variable; "?" for what is not printable ASCII, so that the
    /// message stays one line of UTF-8 wherever it is cut off.
    @inline(never)
    public mutating func appendInterpolation(cString: UnsafePointer<CChar>) {
      var byte = cString
      while byte.pointee != 0 {
        let isPrintable = UInt8(ascii: " ")...UInt8(ascii: "~") ~= UInt8(bitPattern: byte.pointee)
        message.append(isPrintable ? UInt8(bitPattern: byte.pointee) : UInt8(ascii: "?"))
        byte += 1
      }
    }
  }
}

#if !hasFeature(Embedded)
  extension AttentionError: CustomStringConvertible {
    public var description: String { message.withBytes { String(decoding: $0, as: UTF8.self) } }
  }
#endif
