import CSwiftAttnShims
import Synchronization

/// Work that any number of threads do together, drawing items from the control's counter.
protocol ParallelPass: ~Copyable {
  func run(_ control: borrowing CallControl, participant: Int)
}

extension ParallelPass where Self: ~Copyable {
  /// Does `items` items on so many threads, the calling one included. Mutating, though it changes nothing, so that the
  /// pass, which is large, is shared where it is.
  mutating func run(items: Int, _ check: InterruptCheck?, participants: Int) throws(AttentionError) {
    let control = CallControl(items: items, check: check)
    withUnsafeMutablePointer(to: &self) { pass in
      withUnsafePointer(to: control) { control in
        let call = ParallelCall(pass: UnsafePointer(pass), control: control)
        ThreadPool.run(participants: participants, sharing: call) { call, participant in
          call.pass.pointee.run(call.control.pointee, participant: participant)
        } whileWaiting: { call in
          call.control.pointee.poll()
        }
      }
    }
    try control.conclude()
  }
}

/// What the threads of a call share.
private struct ParallelCall<Pass: ParallelPass & ~Copyable> {
  let pass: UnsafePointer<Pass>
  let control: UnsafePointer<CallControl>
}

/// What the threads of one call share: the next work item, and whether to stop.
struct CallControl: ~Copyable {
  private static let pollNanoseconds: UInt64 = 5_000_000

  private let next = Atomic<Int>(0)
  private let finished = Atomic<Int>(0)
  private let stopped = Atomic<Bool>(false)
  private let interrupted = Atomic<Bool>(false)
  /// Of a call that has somebody to ask; others do not read the clock.
  private let lastPoll: Atomic<UInt64>
  private let count: Int
  private let check: InterruptCheck?

  init(items: Int, check: InterruptCheck?) {
    lastPoll = Atomic(check == nil ? 0 : monotonicNanoseconds())
    count = items
    self.check = check
  }

  /// The next item, nil when there are none left or the call is to stop.
  func claim() -> Int? {
    guard !isStopped else { return nil }
    let item = next.add(1, ordering: .relaxed).oldValue
    return item < count ? item : nil
  }

  func finish() { finished.add(1, ordering: .relaxed) }

  var isStopped: Bool { stopped.load(ordering: .relaxed) }

  /// Called between key blocks. Only participant 0, the calling thread, may ask the caller; true: stop.
  func shouldStop(participant: Int) -> Bool {
    if participant == 0 { poll() }
    return isStopped
  }

  /// Asks the caller whether to stop, if it is time to; on the calling thread, also while it waits for the others, one
  /// of which may have by far the longest item.
  func poll() {
    guard let check, !isStopped else { return }
    let now = monotonicNanoseconds()
    guard now - lastPoll.load(ordering: .relaxed) >= Self.pollNanoseconds else { return }
    lastPoll.store(now, ordering: .relaxed)
    if check.isInterrupted(check.context) != 0 {
      interrupted.store(true, ordering: .relaxed)
      stopped.store(true, ordering: .relaxed)
    }
  }

  /// What became of the call, once all threads have returned.
  func conclude() throws(AttentionError) {
    if interrupted.load(ordering: .relaxed) { throw AttentionError(.interrupted, "the call was interrupted") }
    guard finished.load(ordering: .relaxed) >= count else { throw .noMemory }
  }
}
