import AttentionBlocks

/// Memory for one thread's share of a call, cut up in order. Alignment: one cache line.
struct Workspace: ~Copyable {
  private let memory: Memory
  private(set) var used = 0

  /// Nil when there is no memory.
  init?(bytes: Int, participant: Int) {
    // A power of two, so that calls of different shapes reuse each other's.
    var capacity = 64 << 10
    while capacity < bytes { capacity *= 2 }
    guard let memory = Memory(bytes: capacity, keptOn: .workspace(of: participant)) else { return nil }
    self.memory = memory
  }

  static func bytes<T>(_ count: Int, of: T.Type) -> Int { (count * MemoryLayout<T>.stride + 63) & ~63 }

  mutating func take<T>(_ count: Int, of type: T.Type) -> UnsafeMutablePointer<T> {
    let part = (memory.base + used).bindMemory(to: type, capacity: count)
    used += Self.bytes(count, of: type)
    return part
  }

  /// Parts taken from here on share the memory of those taken since `mark` bytes were in use.
  mutating func reuse(from mark: Int) { used = mark }

  mutating func matrix<T>(rows: Int, stride: Int) -> LaneMatrix<T> {
    LaneMatrix(base: take(rows * stride, of: T.self), stride: stride)
  }
}

extension UnsafeMutablePointer where Pointee: AttentionElement {
  /// What `update(from:count:)` does with a call for every element.
  func copy(from source: UnsafePointer<Pointee>, count: Int) {
    UnsafeMutableRawPointer(self).copyMemory(from: source, byteCount: count * MemoryLayout<Pointee>.stride)
  }
}
