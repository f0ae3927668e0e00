import CSwiftAttnShims
import Synchronization

/// How many threads a call may use, the calling one included.
public enum ThreadCount {
  /// The largest count that can be set.
  public static let maximum = 1024

  /// The count set, else the environment variable `SWIFTATTN_NUM_THREADS` (a whole number from 1 to 1024; anything else
  /// is ignored), else the smaller of the processors that the first thread to ask may run on and what the control
  /// groups' CPU quota leaves, rounded up. The default is determined once.
  ///
  /// May be read and set from any thread at any time; calls that have started keep the count they started with.
  public static var current: Int {
    let count = chosen.load(ordering: .relaxed)
    if count != 0 { return count }
    let known = fallback.load(ordering: .relaxed)
    if known != 0 { return known }
    // Threads that get here together find the same answer.
    let found = fromEnvironment() ?? fromMachine()
    fallback.store(found, ordering: .relaxed)
    return found
  }

  /// Sets the count for calls that start from now on, in all threads; 0 returns to the default.
  ///
  /// - Returns: false, and nothing changes, unless `count` is in `0...maximum`.
  public static func set(_ count: Int) -> Bool {
    guard 0...maximum ~= count else { return false }
    chosen.store(count, ordering: .relaxed)
    return true
  }

  /// What a value of `SWIFTATTN_NUM_THREADS` asks for: nil unless it is all digits and in range.
  static func parse(_ text: Span<UInt8>) -> Int? {
    var position = 0
    guard let count = text.number(at: &position), position == text.count, 1...maximum ~= count else { return nil }
    return count
  }

  private static func fromEnvironment() -> Int? {
    guard let value = sa_environment("SWIFTATTN_NUM_THREADS") else { return nil }
    var length = 0
    while value[length] != 0 { length += 1 }
    return value.withMemoryRebound(to: UInt8.self, capacity: length) {
      parse(UnsafeBufferPointer(start: $0, count: length).span)
    }
  }

  private static func fromMachine() -> Int {
    let processors = max(Int(sa_affinity_count()), 1)
    return min(processors, CPUQuota.ofProcess() ?? processors, maximum)
  }
}

/// The count set; 0 while none is.
private let chosen = Atomic<Int>(0)
/// The default; 0 until it has been determined.
private let fallback = Atomic<Int>(0)
