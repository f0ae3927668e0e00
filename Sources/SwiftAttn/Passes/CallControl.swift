import CSwiftAttnShims
import Synchronization

/// Work that any number of threads do together, drawing items from the control's queue.
protocol ParallelPass: ~Copyable {
  func run(_ control: borrowing CallControl, participant: Int)
}

extension ParallelPass where Self: ~Copyable {
  /// Does the items on so many threads, the calling one included. Mutating, though it changes nothing, so that the
  /// pass, which is large, is shared where it is.
  mutating func run(_ items: WorkItems, _ check: InterruptCheck?, participants: Int) throws(AttentionError) {
    var counters = WorkQueue.Counters(repeating: 0)
    try withUnsafeMutablePointer(to: &counters) { (counters) throws(AttentionError) in
      let queue = WorkQueue(items, participants: participants, counting: counters)
      let control = CallControl(queue, check: check)
      run(control, participants: participants)
      try control.conclude()
    }
  }

  private mutating func run(_ control: borrowing CallControl, participants: Int) {
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

  private let queue: WorkQueue
  /// Interrupted: nothing else stops a call.
  private let stopped = Atomic<Bool>(false)
  /// Of a call that has somebody to ask; others do not read the clock.
  private let lastPoll: Atomic<UInt64>
  private let check: InterruptCheck?

  init(_ queue: consuming WorkQueue, check: InterruptCheck?) {
    lastPoll = Atomic(check == nil ? 0 : monotonicNanoseconds())
    self.queue = queue
    self.check = check
  }

  /// The next item, nil when there are none left or the call is to stop.
  func claim(participant: Int) -> Int? { isStopped ? nil : queue.claim(participant: participant) }

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
      stopped.store(true, ordering: .relaxed)
    }
  }

  /// What became of the call, once all threads have returned.
  func conclude() throws(AttentionError) {
    if isStopped { throw AttentionError(.interrupted, "the call was interrupted") }
    // Who claims an item has the memory for it, and does it unless all are to stop.
    guard queue.claim(participant: 0) == nil else { throw .noMemory }
  }
}
