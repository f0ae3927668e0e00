import CSwiftAttnShims
import Synchronization

/// Memory kept between calls: fresh memory costs a page fault for every page. A few slots, each empty or with a block
/// that nobody uses.
///
/// Every shelf is lock-free, and a fork leaves it usable: a slot has a whole block or none.
struct MemoryShelf {
  /// Workspaces of a few threads. A participant finds the one that it had before, which with two threads is the one
  /// that its own caches hold.
  static func workspace(of participant: Int) -> MemoryShelf {
    MemoryShelf(first: 0, count: 4, preferred: participant % 4, largest: 2 << 20)
  }
  /// What the steps of a layer hand to each other. A call that finds the slot empty has memory of its own.
  static let layer = MemoryShelf(first: 4, count: 1, preferred: 0, largest: 64 << 20)

  private let first: Int
  private let count: Int
  /// The slot to look at first, counted from `first`.
  private let preferred: Int
  /// Larger blocks go back.
  private let largest: Int

  /// A block that is large enough; those found before it are given back. The allocator in use may have changed since.
  func take(bytes: Int) -> MemoryBlock? {
    for turn in 0..<count {
      let slot = slot(turn)
      guard let block = slots.exchange(slot, nil) else { continue }
      if block.bytes >= bytes, block.allocator == sa_allocator_in_use() { return block }
      block.deallocate()
    }
    return nil
  }

  private func slot(_ turn: Int) -> Int { first + (preferred + turn) % count }

  /// Keeps a block, in the place of one that has been kept longer when all slots are taken.
  func put(_ block: MemoryBlock) {
    guard block.bytes <= largest else { return block.deallocate() }
    var homeless: MemoryBlock? = block
    for turn in 0..<count {
      guard let displaced = homeless else { break }
      homeless = slots.exchange(slot(turn), displaced)
    }
    homeless?.deallocate()
    // Sequentially consistent: either whoever chose another allocator meanwhile finds the block and gives it back, or
    // it is seen here.
    if block.allocator != sa_allocator_in_use() { MemoryShelves.clear() }
  }
}

/// All shelves.
public enum MemoryShelves {
  /// Gives back what is kept; what calls have that are running is kept later.
  public static func clear() {
    for slot in 0..<Slots.count { slots.exchange(slot, nil)?.deallocate() }
  }
}

/// Nothing but zeros, so that optimised builds initialise it statically.
private let slots = Slots()

/// Unchecked because of the pointers: whoever takes one out of a slot owns its block alone.
private struct Slots: ~Copyable, @unchecked Sendable {
  static let count = 5
  private let first = Atomic<UnsafeMutableRawPointer?>(nil)
  private let second = Atomic<UnsafeMutableRawPointer?>(nil)
  private let third = Atomic<UnsafeMutableRawPointer?>(nil)
  private let fourth = Atomic<UnsafeMutableRawPointer?>(nil)
  private let fifth = Atomic<UnsafeMutableRawPointer?>(nil)

  /// Puts a block in the place of what the slot has. A block in a slot begins with what it is.
  func exchange(_ slot: Int, _ block: MemoryBlock?) -> MemoryBlock? {
    block?.base.storeBytes(of: block, as: MemoryBlock?.self)
    return exchangeBase(slot, block?.base)?.load(as: MemoryBlock?.self)
  }

  private func exchangeBase(_ slot: Int, _ base: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    switch slot {
    case 0: first.exchange(base, ordering: .sequentiallyConsistent)
    case 1: second.exchange(base, ordering: .sequentiallyConsistent)
    case 2: third.exchange(base, ordering: .sequentiallyConsistent)
    case 3: fourth.exchange(base, ordering: .sequentiallyConsistent)
    default: fifth.exchange(base, ordering: .sequentiallyConsistent)
    }
  }
}
