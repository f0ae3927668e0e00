import Synchronization

/// Lets the blocks of one head add to each block of keys in order, whichever threads have them: the sums are then taken
/// in the same order, and have the same bits, for any number of threads.
///
/// counter[head][key block] is the number of query blocks that have passed it. Blocks are claimed in order, so the one
/// that everybody waits for is always being worked on.
struct TurnCounters: ~Copyable, @unchecked Sendable {
  // Unchecked because of the pointer to atomics.
  private let counters: UnsafeMutablePointer<Atomic<Int>>
  private let memory: Memory
  private let count: Int
  private let keyBlocks: Int

  /// Nil when there is no memory.
  init?(heads: Int, keyBlocks: Int) {
    count = heads * keyBlocks
    self.keyBlocks = keyBlocks
    guard let memory = Memory(bytes: count * MemoryLayout<Atomic<Int>>.stride) else { return nil }
    counters = memory.base.bindMemory(to: Atomic<Int>.self, capacity: count)
    for i in 0..<count { (counters + i).initialize(to: Atomic(0)) }
    self.memory = memory
  }

  /// Waits until `block` earlier blocks have passed; false when the call is stopped meanwhile.
  func wait(head: Int, keyBlock: Int, for block: Int, _ control: borrowing CallControl) -> Bool {
    var spinner = SpinWait()
    while counters[head * keyBlocks + keyBlock].load(ordering: .acquiring) != block {
      if control.isStopped { return false }
      spinner.wait()
    }
    return true
  }

  func pass(head: Int, keyBlock: Int) {
    counters[head * keyBlocks + keyBlock].add(1, ordering: .releasing)
  }
}
