import CSwiftAttnShims
import Synchronization

/// The worker threads of the process: created when a call first needs them, parked while there is no work.
///
/// One call at a time has the pool. A call that finds it taken, by another thread or by the call it is nested in, runs
/// alone; so no call waits for another and none can deadlock.
enum ThreadPool {
  /// From so many cycles on, about 30 microseconds, a call is worth waking threads: a second one saves half of them,
  /// and waking it takes 20, most of it beside the caller's own work.
  private static let wakingCycles = Double(1 << 16)
  /// For every so many cycles, about 2 microseconds, a smaller call is worth one more thread that is awake.
  private static let sharingCycles = Double(1 << 12)

  /// How many threads, at most `limit`, are worth it for work that takes one core with two FMA units so many cycles.
  ///
  /// (1, 8, 16, 64) in a loop took 0.70 of its time on one thread with two, (1, 8, 32, 64) 0.58 (Zen 4).
  static func participants(cycles: Double, upTo limit: Int) -> Int {
    if cycles >= wakingCycles { return limit }
    guard limit > 1, cycles >= sharingCycles, pool.isWarm() else { return 1 }
    return min(limit, 1 + Int(cycles / sharingCycles))
  }

  /// Runs `body(context, participant)` on the calling thread as participant 0 and on up to `participants - 1` workers
  /// as 1, 2, ..., each number once; returns when all that started have returned.
  ///
  /// Fewer may run than asked for: the pool is taken, a thread could not be created, or the caller was done before a
  /// worker woke up. So bodies draw their work from what they share: any number of participants, even one, completes
  /// it.
  ///
  /// `body` captures nothing: sharing a closure's captures would allocate, and what Swift cannot allocate ends the
  /// process. It may not fork and return in the child: the workers that it would wait for are not there.
  ///
  /// `whileWaiting(context)` is called now and then on the calling thread, when it has done its part and waits for
  /// workers.
  static func run<Context: ~Copyable>(
    participants: Int, sharing context: borrowing Context,
    _ body: @escaping (_ context: borrowing Context, _ participant: Int) -> Void,
    whileWaiting: (_ context: borrowing Context) -> Void = { _ in }
  ) {
    guard participants > 1, pool.acquire() else { return body(context, 0) }
    let wanted = min(participants, ThreadCount.maximum) - 1
    let workers = pool.grow(to: wanted)
    withUnsafePointer(to: context) { context in
      withUnsafePointer(to: Work(body: body, context: context)) { work in
        let job = Job(work: work) { work, participant in
          let work = work.assumingMemoryBound(to: Work<Context>.self).pointee
          work.body(work.context.pointee, participant)
        }
        withUnsafePointer(to: job) { job in
          pool.publish(job, tickets: min(wanted, workers))
          body(context.pointee, 0)
          pool.complete { whileWaiting(context.pointee) }
        }
      }
    }
  }
}

/// A body and what it works on, typed.
private struct Work<Context: ~Copyable> {
  let body: (_ context: borrowing Context, _ participant: Int) -> Void
  let context: UnsafePointer<Context>
}

/// The same with the type erased, as the workers see it. It stands on the stack of the call that has the pool.
private struct Job {
  let work: UnsafeRawPointer
  let entry: (_ work: UnsafeRawPointer, _ participant: Int) -> Void
}

/// Nothing but zeros, so that optimised builds initialise it statically: a fork cannot catch them in the middle of it.
private let pool = Pool()

/// What the callers and the workers share.
///
/// A job is a pointer and a number of tickets. A worker that draws a ticket runs the job as that participant; when the
/// caller has done its own part, it withdraws the tickets that nobody drew and waits for those that were drawn.
///
/// Unchecked because `job` is a pointer: only the caller that has the pool writes it, before it offers tickets
/// (release), and only workers with a ticket (acquire) follow it, before they report back (release), for which that
/// caller waits (acquire).
private struct Pool: ~Copyable, @unchecked Sendable {
  private static let stackSize = 512 << 10
  /// Longer than the steps of a layer, or the ends of their threads, mostly lie apart: who sleeps between them wakes
  /// late. From 30 to 90 us, the layer's forward at 128 and 512 tokens gained 1 to 2 %; 200 us gained no more.
  private static let spinNanoseconds: UInt64 = 90_000
  /// How often a caller that waits for its workers looks after something else.
  private static let waitingNanoseconds: UInt64 = 5_000_000

  /// Whether a call has the pool.
  private let taken = Atomic<Bool>(false)
  /// The workers created; written by the call that has the pool.
  private let workers = Atomic<Int>(0)
  /// The workers that sleep or are about to.
  private let sleepers = Atomic<Int>(0)
  private let job = Atomic<UnsafePointer<Job>?>(nil)
  /// Tickets offered (upper half) and drawn (lower half) of the present job; workers sleep on it while they are equal.
  private let tickets = Atomic<UInt32>(0)
  /// Twice the tickets offered and not yet reported back or withdrawn, plus 1 while the caller sleeps on it.
  private let outstanding = Atomic<UInt32>(0)
  /// When the last work came that might have been shared had a worker been awake.
  private let lastSmallCall = Atomic<UInt64>(0)
  private let handlesFork = Atomic<Bool>(false)

  // MARK: The caller's side

  /// Whether small work may be shared: workers are awake, or worth waking because it follows other so closely that what
  /// is to come will find them so. Small work by itself wakes nobody; several small steps of one layer may.
  func isWarm() -> Bool {
    if workers.load(ordering: .relaxed) > sleepers.load(ordering: .relaxed) { return true }
    let now = monotonicNanoseconds()
    return now &- lastSmallCall.exchange(now, ordering: .relaxed) < Self.spinNanoseconds
  }

  /// Takes the pool unless it is taken.
  func acquire() -> Bool {
    // Before the pool is taken: whatever a fork interrupts, its child finds either an unused pool or a handler that
    // empties it. Two threads may both register; the handler may well run twice.
    if !handlesFork.load(ordering: .acquiring) {
      guard sa_at_fork_in_child({ pool.reset() }) != 0 else { return false }
      handlesFork.store(true, ordering: .releasing)
    }
    return !taken.load(ordering: .relaxed)
      && taken.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged
  }

  /// Creates workers until there are `count` or the system refuses; returns how many there are.
  func grow(to count: Int) -> Int {
    var existing = workers.load(ordering: .relaxed)
    while existing < count, sa_thread_start({ _ in pool.work() }, nil, Self.stackSize) != 0 { existing += 1 }
    workers.store(existing, ordering: .relaxed)
    return existing
  }

  /// Offers `tickets` of a job and wakes as many workers as it takes.
  func publish(_ newJob: UnsafePointer<Job>, tickets count: Int) {
    job.store(newJob, ordering: .relaxed)
    outstanding.store(UInt32(2 * count), ordering: .relaxed)
    // Sequentially consistent with `park`: either a worker going to sleep sees the tickets or it is counted here.
    tickets.store(UInt32(count) << 16, ordering: .sequentiallyConsistent)
    let asleep = sleepers.load(ordering: .sequentiallyConsistent)
    let missing = count - (workers.load(ordering: .relaxed) - asleep)
    if asleep > 0, missing > 0 {
      withUnsafePointer(to: tickets) { sa_futex_wake($0, Int32(missing)) }
    }
  }

  /// Withdraws the tickets left, waits for the workers that drew one, and gives the pool back.
  func complete(whileWaiting: () -> Void) {
    let final = tickets.exchange(0, ordering: .relaxed)
    let undrawn = (final >> 16) - (final & 0xFFFF)
    outstanding.subtract(2 * undrawn, ordering: .relaxed)
    if !SpinWait.spin(nanoseconds: Self.spinNanoseconds, until: { outstanding.load(ordering: .acquiring) == 0 }) {
      var left = outstanding.bitwiseOr(1, ordering: .acquiring).newValue
      while left != 1 {
        withUnsafePointer(to: outstanding) { sa_futex_wait($0, left, Self.waitingNanoseconds) }
        left = outstanding.load(ordering: .acquiring)
        if left != 1 { whileWaiting() }
      }
    }
    taken.store(false, ordering: .releasing)
  }

  // MARK: The workers' side

  /// The life of a worker: it ends with the process.
  func work() -> Never {
    while true {
      perform(participant: awaitTicket())
      if outstanding.subtract(2, ordering: .releasing).newValue == 1 {
        withUnsafePointer(to: outstanding) { sa_futex_wake($0, 1) }
      }
    }
  }

  /// Not inlined, so that it has let go of the closure before the worker reports back: the call checks that nobody
  /// holds on to it.
  @inline(never)
  private func perform(participant: Int) {
    guard let job = job.load(ordering: .relaxed) else { return }
    job.pointee.entry(job.pointee.work, participant)
  }

  private func awaitTicket() -> Int {
    var participant = 0
    while !SpinWait.spin(nanoseconds: Self.spinNanoseconds, until: { drawTicket(&participant) }) { park() }
    return participant
  }

  private func drawTicket(_ participant: inout Int) -> Bool {
    var seen = tickets.load(ordering: .relaxed)
    while Self.offersTicket(seen) {
      let (drawn, now) = tickets.weakCompareExchange(expected: seen, desired: seen + 1, ordering: .acquiring)
      if drawn {
        participant = Int(seen & 0xFFFF) + 1
        return true
      }
      seen = now
    }
    return false
  }

  /// Sleeps until tickets are offered. The kernel compares the word again, so an offer made meanwhile is not missed.
  private func park() {
    sleepers.add(1, ordering: .sequentiallyConsistent)
    let seen = tickets.load(ordering: .sequentiallyConsistent)
    if !Self.offersTicket(seen) { withUnsafePointer(to: tickets) { sa_futex_wait($0, seen, 0) } }
    sleepers.subtract(1, ordering: .relaxed)
  }

  private static func offersTicket(_ tickets: UInt32) -> Bool { tickets & 0xFFFF < tickets >> 16 }

  // MARK: fork

  /// Makes the pool of a fork's child an unused one: the parent's workers, and its other callers, do not exist there.
  private func reset() {
    workers.store(0, ordering: .relaxed)
    sleepers.store(0, ordering: .relaxed)
    job.store(nil, ordering: .relaxed)
    tickets.store(0, ordering: .relaxed)
    outstanding.store(0, ordering: .relaxed)
    taken.store(false, ordering: .relaxed)
  }
}
