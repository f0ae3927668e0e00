import CTestSupport
import Foundation
import Synchronization
import Testing

@testable import SwiftAttn

/// ThreadSanitizer makes the Swift runtime take a lock at every use of a global variable, and a fork can leave such a
/// lock taken for ever; so a run with it says that it leaves these tests out.
@Suite(
  .serialized,
  .enabled(if: sa_test_under_thread_sanitizer() == 0, "the Swift runtime under ThreadSanitizer does not survive a fork")
)
struct ThreadPoolForkTests {
  /// What a process with a working pool can do; also run before forking, so that the child meets no half-built state of
  /// the Swift runtime, whose locks a fork does not repair.
  private static func poolWorks() -> Bool {
    poolCanAssemble(3) && RunRecord.make(participants: 4, items: 200).isCorrect
  }

  /// The exit code of a forked child: 0 when `body` was true there.
  private static func exitCodeOfChild(_ body: () -> Bool) -> Int32 {
    let child = sa_test_fork()
    if child == 0 { sa_test_exit(body() ? 0 : 1) }
    return sa_test_wait(child, 60)
  }

  @Test func childAndParentBothHaveThreads() {
    #expect(Self.poolWorks())
    for _ in 0..<5 { #expect(Self.exitCodeOfChild(Self.poolWorks) == 0) }
    #expect(Self.poolWorks())
  }

  @Test func grandchildHasThreads() {
    #expect(Self.poolWorks())
    #expect(Self.exitCodeOfChild { Self.poolWorks() && Self.exitCodeOfChild(Self.poolWorks) == 0 } == 0)
  }

  @Test func childOfAParentInsideRunHasThreads() {
    #expect(Self.poolWorks())
    let inside = Mutex(false)
    let release = Mutex(false)
    let join = startThreads(1) { _ in
      ThreadPool.run(participants: 3) { _ in
        inside.withLock { $0 = true }
        var spinner = SpinWait()
        while !release.withLock({ $0 }) { spinner.wait() }
      }
    }
    var spinner = SpinWait()
    while !inside.withLock({ $0 }) { spinner.wait() }
    let code = Self.exitCodeOfChild(Self.poolWorks)
    release.withLock { $0 = true }
    join()
    #expect(code == 0)
    #expect(Self.poolWorks())
  }

  /// Forks while another thread goes in and out of the pool as fast as it can, to catch it in as many states as
  /// possible.
  @Test func childOfABusyParentHasThreads() {
    #expect(Self.poolWorks())
    let finished = Mutex(false)
    let wrong = Mutex(0)
    let join = startThreads(1) { _ in
      while !finished.withLock({ $0 }) {
        if !RunRecord.make(participants: 4, items: 20).isCorrect { wrong.withLock { $0 += 1 } }
      }
    }
    var code: Int32 = 0
    for _ in 0..<30 where code == 0 { code = Self.exitCodeOfChild(Self.poolWorks) }
    finished.withLock { $0 = true }
    join()
    #expect(code == 0)
    #expect(wrong.withLock { $0 } == 0)
  }

  /// In a child, because the parent's workers may stem from threads that block signals themselves, and hand that on.
  @Test func workersBlockSignals() {
    let code = Self.exitCodeOfChild {
      var all = sigset_t()
      sigfillset(&all)
      pthread_sigmask(SIG_UNBLOCK, &all, nil)
      let workerBlocks = Atomic<Bool>(false)
      let assembled = insideRun(worker: { workerBlocks.store(Self.blocksInterrupt(), ordering: .relaxed) })
      return assembled && workerBlocks.load(ordering: .relaxed) && !Self.blocksInterrupt()
    }
    #expect(code == 0)
  }

  private static func blocksInterrupt() -> Bool {
    var mask = sigset_t()
    pthread_sigmask(SIG_BLOCK, nil, &mask)
    return sigismember(&mask, SIGINT) == 1
  }
}
