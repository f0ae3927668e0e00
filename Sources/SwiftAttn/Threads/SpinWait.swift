import CSwiftAttnShims

/// Waiting for another thread's progress without sleeping: call `wait()` between two looks at what it will change.
///
/// The first waits only pause the processor (a few microseconds in all); later ones yield it, so that on an
/// oversubscribed machine the thread waited for gets to run.
struct SpinWait {
  private static let pausesPerWait = 8
  private static let waitsBeforeYielding = 16

  private var waits = 0

  mutating func wait() {
    guard waits < Self.waitsBeforeYielding else { return sa_yield() }
    waits += 1
    for _ in 0..<Self.pausesPerWait { sa_pause() }
  }

  /// Looks at `condition` until it holds (true) or `nanoseconds` have passed (false).
  static func spin(nanoseconds: UInt64, until condition: () -> Bool) -> Bool {
    if condition() { return true }
    let start = monotonicNanoseconds()
    var spinner = SpinWait()
    repeat {
      spinner.wait()
      if condition() { return true }
    } while monotonicNanoseconds() - start < nanoseconds
    return false
  }
}

/// Nanoseconds of a clock that is never set back; only differences mean something.
func monotonicNanoseconds() -> UInt64 { sa_monotonic_nanoseconds() }
