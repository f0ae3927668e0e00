/// The element types that a tensor may have.
public enum ElementType: Int32, Sendable {
  case float32 = 1
  case float64 = 2
  case bool = 3
  case int32 = 4
  case int64 = 5

  var size: Int {
    switch self {
    case .float32, .int32: 4
    case .float64, .int64: 8
    case .bool: 1
    }
  }

  var name: StaticString {
    switch self {
    case .float32: "float32"
    case .float64: "float64"
    case .bool: "bool"
    case .int32: "int32"
    case .int64: "int64"
    }
  }
}

/// Up to eight lengths (or strides), held in place.
public struct Shape: Sendable {
  public static let maxRank = 8

  public private(set) var rank: Int
  // Loops read it as a span: a subscript of a constant copies all eight numbers to read one.
  private(set) var values = InlineArray<8, Int>(repeating: 0)

  /// `rank` zeros; a rank over `maxRank` is cut to it.
  public init(rank: Int) { self.rank = min(max(rank, 0), Self.maxRank) }

  public subscript(axis: Int) -> Int {
    get { values[axis] }
    set { values[axis] = newValue }
  }

  /// Counted from the end: 1 is the last axis.
  func last(_ n: Int) -> Int { values[rank - n] }

  /// With one more axis; the rank is below the largest.
  func appending(_ length: Int) -> Shape {
    var shape = self
    shape.values[rank] = length
    shape.rank += 1
    return shape
  }

  /// Without the last `count` axes.
  func dropping(_ count: Int) -> Shape {
    var shape = self
    shape.rank -= count
    return shape
  }
}

/// A view of memory that somebody else owns: the one place where the library holds the caller's pointers.
///
/// Strides are in bytes and may be zero or negative for inputs. The memory must stay valid during the calls it is used
/// in.
public struct TensorView: @unchecked Sendable {
  public var data: UnsafeMutableRawPointer?
  public var type: ElementType
  public var shape: Shape
  public var strides: Shape

  public init(data: UnsafeMutableRawPointer?, type: ElementType, shape: Shape, strides: Shape) {
    self.data = data
    self.type = type
    self.shape = shape
    self.strides = strides
  }

  var rank: Int { shape.rank }
  var isEmpty: Bool {
    let lengths = shape.values.span
    for axis in 0..<rank where lengths[axis] == 0 { return true }
    return false
  }

  /// Sets every element to zero.
  func clear<Element: BinaryFloatingPoint>(as: Element.Type) {
    guard let data, !isEmpty else { return }
    var index = Shape(rank: rank)
    var element = data
    while true {
      element.storeBytes(of: 0, as: Element.self)
      // The next index in row-major order, like an odometer.
      var axis = rank - 1
      while axis >= 0, index[axis] == shape[axis] - 1 {
        element -= index[axis] * strides[axis]
        index[axis] = 0
        axis -= 1
      }
      guard axis >= 0 else { return }
      index[axis] += 1
      element += strides[axis]
    }
  }
}
