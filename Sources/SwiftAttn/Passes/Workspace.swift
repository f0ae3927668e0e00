import AttentionBlocks
import CSwiftAttnShims
import Synchronization

/// Memory for one thread's share of a call, cut up in order. Alignment: one cache line.
struct Workspace: ~Copyable {
  private let memory: UnsafeMutableRawPointer
  private let capacity: Int
  private var used = 0

  /// Nil when there is no memory.
  init?(bytes: Int) {
    guard let found = WorkspaceCache.take(bytes: bytes) else { return nil }
    (memory, capacity) = found
  }

  deinit { WorkspaceCache.put(memory, capacity: capacity) }

  static func bytes<T>(_ count: Int, of: T.Type) -> Int { (count * MemoryLayout<T>.stride + 63) & ~63 }

  mutating func take<T>(_ count: Int, of type: T.Type) -> UnsafeMutablePointer<T> {
    let part = (memory + used).bindMemory(to: type, capacity: count)
    used += Self.bytes(count, of: type)
    return part
  }

  mutating func matrix<T>(rows: Int, stride: Int) -> LaneMatrix<T> {
    LaneMatrix(base: take(rows * stride, of: T.self), stride: stride)
  }
}

/// Workspaces between calls: a fresh one costs a page fault for every page, which small calls would feel.
private enum WorkspaceCache {
  /// Rounded up to a power of two from here, so that calls of different shapes reuse each other's.
  static let smallest = 64 << 10
  /// Larger ones go back to the system.
  static let largest = 2 << 20

  static func take(bytes: Int) -> (UnsafeMutableRawPointer, Int)? {
    var capacity = smallest
    while capacity < bytes { capacity *= 2 }
    for slot in 0..<WorkspaceSlots.count {
      guard let cached = slots.exchange(slot, nil) else { continue }
      let size = cached.load(as: Int.self)
      if size >= capacity { return (cached, size) }
      sa_free(cached)
    }
    guard let fresh = sa_allocate(capacity) else { return nil }
    return (fresh, capacity)
  }

  static func put(_ memory: UnsafeMutableRawPointer, capacity: Int) {
    guard capacity <= largest else { return sa_free(memory) }
    memory.storeBytes(of: capacity, as: Int.self)
    var homeless: UnsafeMutableRawPointer? = memory
    for slot in 0..<WorkspaceSlots.count {
      guard let displaced = homeless else { return }
      homeless = slots.exchange(slot, displaced)
    }
    if let displaced = homeless { sa_free(displaced) }
  }
}

private let slots = WorkspaceSlots()

/// One slot for each of a few threads; a fork leaves them usable, since each holds a whole workspace or none.
/// Unchecked because of the pointers: whoever takes one out of a slot owns it alone.
private struct WorkspaceSlots: ~Copyable, @unchecked Sendable {
  static let count = 4
  private let first = Atomic<UnsafeMutableRawPointer?>(nil)
  private let second = Atomic<UnsafeMutableRawPointer?>(nil)
  private let third = Atomic<UnsafeMutableRawPointer?>(nil)
  private let fourth = Atomic<UnsafeMutableRawPointer?>(nil)

  func exchange(_ slot: Int, _ memory: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    switch slot {
    case 0: first.exchange(memory, ordering: .acquiringAndReleasing)
    case 1: second.exchange(memory, ordering: .acquiringAndReleasing)
    case 2: third.exchange(memory, ordering: .acquiringAndReleasing)
    default: fourth.exchange(memory, ordering: .acquiringAndReleasing)
    }
  }
}
