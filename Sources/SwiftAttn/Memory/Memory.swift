import CSwiftAttnShims

/// Memory of the allocator in use, aligned to a cache line, as long as somebody has it; then it is kept on its shelf
/// for the next who needs some, or goes back to the allocator it is from.
///
/// All memory of the core comes from here: what Swift allocates by itself (arrays, classes, closures that capture,
/// large temporaries) ends the process when there is none. `scripts/check_exports.py` looks for it.
struct Memory: ~Copyable {
  private let block: MemoryBlock
  private let shelf: MemoryShelf?

  var base: UnsafeMutableRawPointer { block.base }

  /// Nil when there is no memory.
  init?(bytes: Int, keptOn shelf: MemoryShelf? = nil) {
    guard let block = shelf?.take(bytes: bytes) ?? MemoryBlock(bytes: bytes) else { return nil }
    self.block = block
    self.shelf = shelf
  }

  deinit {
    guard let shelf else { return block.deallocate() }
    shelf.put(block)
  }
}

/// Memory and its allocator. Whoever has the only copy owns it.
struct MemoryBlock {
  static let alignment = 64
  /// An allocator is never asked for nothing, and a block on a shelf holds what it is.
  private static let least = MemoryLayout<MemoryBlock>.size

  let base: UnsafeMutableRawPointer
  let bytes: Int
  let allocator: UnsafePointer<sa_allocator>

  /// Nil when there is no memory.
  init?(bytes: Int) {
    allocator = sa_allocator_in_use()
    self.bytes = max(bytes, Self.least)
    guard let base = allocator.pointee.allocate(allocator.pointee.context, self.bytes, Self.alignment) else {
      return nil
    }
    self.base = base
  }

  func deallocate() { allocator.pointee.deallocate(allocator.pointee.context, base, bytes) }
}

extension AttentionError {
  static var noMemory: AttentionError { AttentionError(.outOfMemory, "there was no memory for the workspace") }
}
