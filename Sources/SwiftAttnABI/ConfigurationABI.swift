public import CSwiftAttn
import CSwiftAttnShims
import SwiftAttn

@c @implementation
public func swiftattn_version() -> UnsafePointer<CChar>! { text("0.1.0") }

@c @implementation
public func swiftattn_get_num_threads() -> Int32 { Int32(ThreadCount.current) }

@c @implementation
public func swiftattn_set_num_threads(_ count: Int32) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    guard ThreadCount.set(Int(count)) else {
      throw AttentionError(
        .invalidArgument, "the number of threads must lie in 0...\(ThreadCount.maximum), but is \(Int(count))")
    }
  }
}

@c @implementation
public func swiftattn_isa_name(_ index: Int32) -> UnsafePointer<CChar>! {
  let sets = InstructionSet.allCases
  return sets.indices.contains(Int(index)) ? text(sets[Int(index)].name) : nil
}

@c @implementation
public func swiftattn_isa_supported(_ name: UnsafePointer<CChar>!) -> Int32 {
  guard let name, let set = InstructionSet(name: name) else { return 0 }
  return set.isSupported ? 1 : 0
}

@c @implementation
public func swiftattn_get_isa() -> UnsafePointer<CChar>! {
  var name: UnsafePointer<CChar>?
  _ = reportingStatus { () throws(AttentionError) in name = text(try Dispatch.current().name) }
  return name
}

@c @implementation
public func swiftattn_set_isa(_ name: UnsafePointer<CChar>!) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    guard let name else { return Dispatch.chooseDefault() }
    try Dispatch.choose(named: name)
  }
}

/// A static string as C sees it; the compiler ends each with a zero byte.
private func text(_ string: StaticString) -> UnsafePointer<CChar> {
  UnsafeRawPointer(string.utf8Start).assumingMemoryBound(to: CChar.self)
}

@c @implementation
public func swiftattn_kernel_id(_ index: Int32) -> UnsafePointer<CChar>! {
  guard let set = try? Dispatch.current(), 0..<KernelNames.count(set) ~= Int(index), kernelIdsAreWritten else {
    return nil
  }
  return UnsafePointer(sa_kernel_id_text(set.rawValue, index))
}

/// Writes every id as C text to its place, once.
private let kernelIdsAreWritten: Bool = {
  for set in InstructionSet.allCases {
    for index in 0..<KernelNames.count(set) {
      guard let text = sa_kernel_id_text(set.rawValue, Int32(index)) else { return false }
      KernelNames.id(index, set).copy(to: text, capacity: Int(sa_kernel_id_capacity))
    }
  }
  return true
}()

extension Message {
  /// As C text; what does not fit is cut off.
  func copy(to text: UnsafeMutablePointer<CChar>, capacity: Int) {
    withBytes { bytes in
      let count = min(bytes.count, capacity - 1)
      for i in 0..<count { text[i] = CChar(bitPattern: bytes[i]) }
      text[count] = 0
    }
  }
}

// MARK: Memory

@c @implementation
public func swiftattn_set_allocator(_ allocator: UnsafePointer<swiftattn_allocator>!) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    if let allocator {
      let fields = try known(allocator, "allocator")
      guard fields.allocate != nil else { throw AttentionError(.invalidArgument, "allocator.allocate is NULL") }
      guard fields.deallocate != nil else { throw AttentionError(.invalidArgument, "allocator.deallocate is NULL") }
    }
    // Field by field the same.
    sa_use_allocator(UnsafeRawPointer(allocator)?.assumingMemoryBound(to: sa_allocator.self))
    MemoryShelves.clear()
  }
}

@c @implementation
public func swiftattn_release_memory() { MemoryShelves.clear() }
