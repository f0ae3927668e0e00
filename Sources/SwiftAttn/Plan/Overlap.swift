/// The bytes between a tensor's first and last: start ..< end, equal when it has no elements.
struct MemoryExtent: Equatable {
  /// More than any address space, and small enough that sums of two extents cannot overflow.
  private static let largest: UInt = 1 << 60

  private(set) var start: UInt
  private(set) var end: UInt

  static let nowhere = MemoryExtent()
  private init() { (start, end) = (0, 0) }

  /// Nil when the extent does not fit the address space.
  init?(_ view: TensorView) {
    let base = UInt(bitPattern: view.data)
    start = base
    end = base
    guard !view.isEmpty else { return }
    let (shape, strides) = (view.shape, view.strides)
    let (lengths, steps) = (shape.values.span, strides.values.span)
    for axis in 0..<shape.rank where lengths[axis] > 1 {
      let (span, tooFar) = steps[axis].multipliedReportingOverflow(by: lengths[axis] - 1)
      guard !tooFar, span != .min else { return nil }
      let (bound, wraps) =
        span < 0
        ? start.subtractingReportingOverflow(span.magnitude) : end.addingReportingOverflow(span.magnitude)
      guard !wraps else { return nil }
      if span < 0 { start = bound } else { end = bound }
    }
    let (last, wraps) = end.addingReportingOverflow(UInt(view.type.size))
    guard !wraps, last - start < Self.largest else { return nil }
    end = last
  }

  func intersects(_ other: MemoryExtent) -> Bool {
    start < other.end && other.start < end && start < end && other.start < other.end
  }
}

/// Do tensors share a byte? Decides which outputs are safe to write.
///
/// Byte addresses of a tensor are base + sum x_i * |stride_i| + e with 0 <= x_i < length_i, 0 <= e < element size. Two
/// tensors meet when a bounded linear equation with positive coefficients has a solution; strides nest in practice, so
/// a search from the largest coefficient down decides after a few steps. Views that interleave (the thirds of a packed
/// query-key-value array) are told apart from views that touch.
enum MemoryOverlap {
  /// Whether no two elements share memory, judged by strides that nest; stranger layouts count as sharing.
  static func isInjective(_ view: TensorView) -> Bool {
    guard !view.isEmpty else { return true }
    var equation = LinearEquation(target: 0)
    for axis in 0..<view.rank where view.shape[axis] > 1 {
      equation.add(coefficient: view.strides[axis].magnitude, bound: UInt(view.shape[axis] - 1))
    }
    return equation.isNested(within: UInt(view.type.size))
  }

  /// Whether two tensors share memory; also true where strides that do not nest keep the search from an end.
  static func exists(_ a: TensorView, _ b: TensorView) -> Bool {
    guard let first = MemoryExtent(a), let second = MemoryExtent(b) else { return true }
    guard first.intersects(second) else { return false }
    // first.start + sum(terms) = second.end - 1 - sum(terms): mirrored, so that all coefficients are positive.
    var equation = LinearEquation(target: second.end - 1 - first.start)
    equation.add(a)
    equation.add(b)
    return equation.mayHaveSolution()
  }
}

/// Is there x with sum coefficient_i * x_i = target, 0 <= x_i <= bound_i?
private struct LinearEquation {
  private static let capacity = 18  // two tensors of rank 8 and the bytes of their elements
  private var coefficients = InlineArray<18, UInt>(repeating: 0)
  private var bounds = InlineArray<18, UInt>(repeating: 0)
  /// reach[i]: the most that terms i and after can sum to.
  private var reach = InlineArray<19, UInt>(repeating: 0)
  private var count = 0
  private let target: UInt

  init(target: UInt) { self.target = target }

  mutating func add(_ view: TensorView) {
    for axis in 0..<view.rank where view.shape[axis] > 1 && view.strides[axis] != 0 {
      add(coefficient: view.strides[axis].magnitude, bound: UInt(view.shape[axis] - 1))
    }
    add(coefficient: 1, bound: UInt(view.type.size - 1))
  }

  /// Keeps the terms in descending order.
  mutating func add(coefficient: UInt, bound: UInt) {
    guard bound > 0 else { return }
    var place = 0
    while place < count, coefficients[place] > coefficient { place += 1 }
    var i = count
    while i > place {
      coefficients[i] = coefficients[i - 1]
      bounds[i] = bounds[i - 1]
      i -= 1
    }
    coefficients[place] = coefficient
    bounds[place] = bound
    count += 1
  }

  /// Each stride steps over everything that the smaller ones reach. Mutating, so that the arrays need not be copied.
  mutating func isNested(within size: UInt) -> Bool {
    var reached = size
    for i in stride(from: count - 1, through: 0, by: -1) {
      guard coefficients[i] >= reached else { return false }
      reached += coefficients[i] * bounds[i]
    }
    return true
  }

  /// True also when the search gives up, which only strides that do not nest can bring about.
  mutating func mayHaveSolution() -> Bool {
    mergeEqualCoefficients()
    for i in stride(from: count - 1, through: 0, by: -1) {
      reach[i] = reach[i + 1] + coefficients[i] * bounds[i]
    }
    var budget = 10_000
    return search(from: 0, target: target, &budget)
  }

  /// 4x + 4y is 4z with the bounds added: two tensors of one layout would otherwise be searched twice over.
  private mutating func mergeEqualCoefficients() {
    var kept = 0
    for i in 0..<count {
      if kept > 0, coefficients[kept - 1] == coefficients[i] {
        bounds[kept - 1] += bounds[i]
      } else {
        coefficients[kept] = coefficients[i]
        bounds[kept] = bounds[i]
        kept += 1
      }
    }
    count = kept
  }

  private func search(from term: Int, target: UInt, _ budget: inout Int) -> Bool {
    budget -= 1
    guard budget > 0 else { return true }
    guard target <= reach[term] else { return false }
    guard term < count else { return target == 0 }
    let coefficient = coefficients[term]
    let most = min(bounds[term], target / coefficient)
    let rest = reach[term + 1]
    let least = target > rest ? (target - rest + coefficient - 1) / coefficient : 0
    guard least <= most else { return false }
    for x in least...most where search(from: term + 1, target: target - coefficient * x, &budget) { return true }
    return false
  }
}
