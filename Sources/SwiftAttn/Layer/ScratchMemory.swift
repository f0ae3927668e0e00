import CSwiftAttnShims
import Synchronization

/// Memory for what the steps of one call hand to each other, given back at its end.
///
/// One such memory is kept for the next call: a fresh one costs a page fault for every page, which took a tenth of a small
/// layer's forward. A call that finds it taken has one of its own.
struct ScratchMemory: ~Copyable {
  /// Larger ones go back to the system.
  private static let largestKept = 64 << 20

  let base: UnsafeMutableRawPointer
  private let capacity: Int

  init(bytes: Int) throws(AttentionError) {
    if let kept = keptMemory.take() {
      let capacity = kept.load(as: Int.self)
      if capacity >= bytes {
        (base, self.capacity) = (kept, capacity)
        return
      }
      sa_free(kept)
    }
    capacity = max(bytes, MemoryLayout<Int>.size)
    guard let memory = sa_allocate(capacity) else {
      throw AttentionError(.outOfMemory, "there was no memory for the workspace")
    }
    base = memory
  }

  deinit {
    guard capacity <= Self.largestKept else { return sa_free(base) }
    base.storeBytes(of: capacity, as: Int.self)
    if let displaced = keptMemory.exchange(base) { sa_free(displaced) }
  }
}

private let keptMemory = KeptMemory()

/// Unchecked because of the pointer: whoever takes it out owns it alone. A fork leaves it usable, since it is there whole
/// or not at all.
private struct KeptMemory: ~Copyable, @unchecked Sendable {
  private let memory = Atomic<UnsafeMutableRawPointer?>(nil)

  func take() -> UnsafeMutableRawPointer? { exchange(nil) }

  func exchange(_ other: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    memory.exchange(other, ordering: .acquiringAndReleasing)
  }
}
