import Foundation
import Synchronization

@testable import SwiftAttn

/// How often each of `count` things happened.
struct Tally: ~Copyable, @unchecked Sendable {
  private let counters: UnsafeMutableBufferPointer<Atomic<Int>>

  init(count: Int) {
    counters = .allocate(capacity: count)
    for index in 0..<count { counters.initializeElement(at: index, to: Atomic(0)) }
  }

  deinit {
    counters.deinitialize()
    counters.deallocate()
  }

  var counts: [Int] { (0..<counters.count).map { counters[$0].load(ordering: .relaxed) } }

  func add(_ index: Int) { counters[index].add(1, ordering: .relaxed) }
}

/// What one `ThreadPool.run` did.
struct RunRecord {
  /// How often each participant number was used; the last place counts numbers out of range.
  let uses: [Int]
  /// How often each item of work was done.
  let items: [Int]

  /// Every item done once; participant 0 used once; no other number used twice or out of range.
  var isCorrect: Bool {
    items.allSatisfy { $0 == 1 } && uses.first == 1 && uses.last == 0 && uses.allSatisfy { $0 <= 1 }
  }

  /// Runs `items` items of work, drawn from a shared counter.
  static func make(participants: Int, items: Int) -> RunRecord {
    let limit = max(participants, 1)
    let uses = Tally(count: limit + 1)
    let done = Tally(count: items)
    let next = Atomic<Int>(0)
    ThreadPool.run(participants: participants) { participant in
      uses.add(0..<limit ~= participant ? participant : limit)
      while true {
        let item = next.add(1, ordering: .relaxed).oldValue
        guard item < items else { return }
        done.add(item)
      }
    }
    return RunRecord(uses: uses.counts, items: done.counts)
  }
}

/// Runs until `participants` bodies have been running at the same time: true as soon as that has happened, false after
/// ten seconds. Repeats, because other tests may have the pool and a worker may wake up late.
func poolCanAssemble(_ participants: Int) -> Bool {
  let deadline = monotonicNanoseconds() + 10_000_000_000
  while monotonicNanoseconds() < deadline {
    let present = Atomic<Int>(0)
    let patience = monotonicNanoseconds() + 100_000_000
    ThreadPool.run(participants: participants) { _ in
      present.add(1, ordering: .relaxed)
      var spinner = SpinWait()
      while present.load(ordering: .relaxed) < participants, monotonicNanoseconds() < patience { spinner.wait() }
    }
    if present.load(ordering: .relaxed) == participants { return true }
  }
  return false
}

/// Calls `body` once as participant 0 of a run that certainly has the pool, because a worker has joined it, which calls
/// `worker` first and stays until `body` has returned; false if none joined within ten seconds.
func insideRun(_ body: () -> Void = {}, worker: () -> Void = {}) -> Bool {
  let deadline = monotonicNanoseconds() + 10_000_000_000
  let called = Atomic<Bool>(false)
  while !called.load(ordering: .relaxed), monotonicNanoseconds() < deadline {
    let joined = Atomic<Bool>(false)
    let finished = Atomic<Bool>(false)
    let patience = monotonicNanoseconds() + 100_000_000
    ThreadPool.run(participants: 2) { participant in
      var spinner = SpinWait()
      if participant == 0 {
        while !joined.load(ordering: .relaxed), monotonicNanoseconds() < patience { spinner.wait() }
        if joined.load(ordering: .relaxed) {
          called.store(true, ordering: .relaxed)
          body()
        }
        finished.store(true, ordering: .relaxed)
      } else {
        worker()
        joined.store(true, ordering: .relaxed)
        while !finished.load(ordering: .relaxed) { spinner.wait() }
      }
    }
  }
  return called.load(ordering: .relaxed)
}

/// Starts `count` threads of their own (not the cooperative pool's, which may not block); call the result to wait for
/// them.
func startThreads(_ count: Int, _ body: @escaping @Sendable (_ index: Int) -> Void) -> () -> Void {
  let group = DispatchGroup()
  for index in 0..<count {
    group.enter()
    Thread {
      body(index)
      group.leave()
    }.start()
  }
  return { group.wait() }
}

extension ThreadPool {
  /// The same for a body that captures what it works on.
  static func run(participants: Int, _ body: (_ participant: Int) -> Void) {
    withoutActuallyEscaping(body) { body in
      run(participants: participants, sharing: body) { body, participant in body(participant) }
    }
  }
}
