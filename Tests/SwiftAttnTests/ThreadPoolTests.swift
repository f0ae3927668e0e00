import Foundation
import Synchronization
import Testing

@testable import SwiftAttn

@Suite struct ThreadPoolTests {
  @Test(arguments: 1...64)
  func doesAllWorkOnceWithDistinctParticipants(participants: Int) {
    #expect(RunRecord.make(participants: participants, items: 500).isCorrect)
  }

  @Test(arguments: [0, -1, Int.min])
  func countsBelowOneRunTheCallerAlone(participants: Int) {
    #expect(RunRecord.make(participants: participants, items: 10).uses == [1, 0])
  }

  @Test func growsAndShrinksBetweenCalls() {
    for participants in [2, 16, 3, 64, 1, 5, 40, 2] {
      for _ in 0..<20 { #expect(RunRecord.make(participants: participants, items: 100).isCorrect) }
    }
  }

  @Test(arguments: [2, 3, 8])
  func workersRunBesideTheCaller(participants: Int) {
    #expect(poolCanAssemble(participants))
  }

  @Test func sleepingWorkersWakeUp() {
    for _ in 0..<5 {
      Thread.sleep(forTimeInterval: 0.01)
      #expect(poolCanAssemble(4))
    }
  }

  @Test func tinyWorkIsNotShared() {
    for _ in 0..<1000 { #expect(ThreadPool.participants(cycles: 4000, upTo: 8) == 1) }
  }

  /// Asked for at once again and again, threads are worth waking, if there are none awake; each is to have its part.
  @Test func smallWorkThatFollowsOtherIsShared() {
    #expect((0..<1000).contains { _ in ThreadPool.participants(cycles: 3 * 4096, upTo: 8) == 4 })
    #expect((0..<1000).contains { _ in ThreadPool.participants(cycles: 3 * 4096, upTo: 2) == 2 })
  }

  @Test(arguments: [1, 2, 64])
  func largeWorkIsForAllThreads(limit: Int) {
    #expect(ThreadPool.participants(cycles: 1e5, upTo: limit) == limit)
    #expect(ThreadPool.participants(cycles: .infinity, upTo: limit) == limit)
  }

  @Test func participantZeroIsTheCallingThread() {
    let caller = pthread_self()
    for _ in 0..<100 {
      let misplaced = Atomic<Int>(0)
      ThreadPool.run(participants: 4) { participant in
        let isCaller = pthread_equal(pthread_self(), caller) != 0
        if isCaller != (participant == 0) { misplaced.add(1, ordering: .relaxed) }
      }
      #expect(misplaced.load(ordering: .relaxed) == 0)
    }
  }

  /// Plain memory written by the caller before, by the bodies during and by the caller after: under ThreadSanitizer
  /// this checks the ordering that the pool promises.
  @Test func ordersPlainMemory() {
    let slots = UnsafeMutableBufferPointer<Int>.allocate(capacity: 64)
    defer { slots.deallocate() }
    nonisolated(unsafe) let shared = slots
    for round in 0..<200 {
      shared.update(repeating: round)
      let next = Atomic<Int>(0)
      ThreadPool.run(participants: 4) { _ in
        while true {
          let index = next.add(1, ordering: .relaxed).oldValue
          guard index < 64 else { return }
          shared[index] += index
        }
      }
      #expect((0..<64).allSatisfy { shared[$0] == round + $0 })
    }
  }

  @Test func nestedCallsRunAlone() {
    let wrong = Atomic<Int>(0)
    for _ in 0..<50 {
      ThreadPool.run(participants: 4) { _ in
        let inner = RunRecord.make(participants: 4, items: 20)
        if !inner.isCorrect { wrong.add(1, ordering: .relaxed) }
      }
    }
    #expect(wrong.load(ordering: .relaxed) == 0)
  }

  @Test func aCallInsideACallRunsAlone() {
    var uses: [Int] = []
    #expect(insideRun { uses = RunRecord.make(participants: 8, items: 100).uses })
    #expect(uses == [1, 0, 0, 0, 0, 0, 0, 0, 0])
  }

  @Test func concurrentCallersAllFinish() {
    let wrong = Mutex(0)
    let join = startThreads(8) { index in
      for round in 0..<250 {
        let record = RunRecord.make(participants: 2 + (index + round) % 7, items: 50)
        if !record.isCorrect { wrong.withLock { $0 += 1 } }
      }
    }
    join()
    #expect(wrong.withLock { $0 } == 0)
  }

  @Test func spinReportsWhetherTheConditionHeld() {
    #expect(SpinWait.spin(nanoseconds: 0) { true })
    #expect(!SpinWait.spin(nanoseconds: 100_000) { false })
    var looks = 0
    #expect(
      SpinWait.spin(nanoseconds: 10_000_000_000) {
        looks += 1
        return looks == 100
      })
  }

  /// Waiting yields in the end, so that a thread on the same processor can make the progress waited for.
  @Test func spinWaitSeesAnotherThreadsProgress() {
    let flag = Mutex(0)
    let join = startThreads(1) { _ in
      for step in 1...1000 { flag.withLock { $0 = step } }
    }
    var spinner = SpinWait()
    while flag.withLock({ $0 }) < 1000 { spinner.wait() }
    join()
    #expect(flag.withLock { $0 } == 1000)
  }

  @Test func theClockNeverGoesBack() {
    let start = monotonicNanoseconds()
    Thread.sleep(forTimeInterval: 0.02)
    #expect(monotonicNanoseconds() - start >= 19_000_000)
  }
}
