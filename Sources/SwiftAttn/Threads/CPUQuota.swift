import CSwiftAttnShims

/// How many processors' worth of time the control groups grant the process.
///
/// A group gets no more than any group above it, so the answer is the smallest quota on the way up. The mount points
/// are the usual ones: /sys/fs/cgroup for version 2, /sys/fs/cgroup/cpu for version 1's CPU controller.
enum CPUQuota {
  /// Reads the start of the file with this NUL-terminated path; returns the number of bytes read, or -1.
  typealias Reader = (_ path: UnsafePointer<CChar>, _ buffer: UnsafeMutableBufferPointer<UInt8>) -> Int

  /// The quota rounded up to whole processors; nil when there is none.
  static func ofProcess() -> Int? {
    smallest { path, buffer in
      guard let start = buffer.baseAddress else { return -1 }
      return Int(sa_read_file(path, start, buffer.count))
    }
  }

  /// `ofProcess` for the files that `read` knows.
  static func smallest(read: Reader) -> Int? {
    withBytesOnStack(InlineArray<16384, UInt8>(repeating: 0)) { buffer in
      let length = read("/proc/self/cgroup", buffer)
      guard length > 0 else { return nil }
      let groups = UnsafeBufferPointer(rebasing: buffer[..<length]).span
      let unified = group(in: groups, version: .v2).flatMap { path in
        smallest(from: groups, path) { directory in
          contents(of: directory, "/sys/fs/cgroup", "/cpu.max", read) { parseV2($0) }
        }
      }
      let legacy = group(in: groups, version: .v1).flatMap { path in
        smallest(from: groups, path) { directory in
          contents(of: directory, "/sys/fs/cgroup/cpu", "/cpu.cfs_quota_us", read) { quota in
            contents(of: directory, "/sys/fs/cgroup/cpu", "/cpu.cfs_period_us", read) { period in
              parseV1(quota: quota, period: period)
            }
          }
        }
      }
      guard let unified, let legacy else { return unified ?? legacy }
      return min(unified, legacy)
    }
  }

  // MARK: The kernel's formats

  enum Version { case v1, v2 }

  /// Where in the text of /proc/self/cgroup, lines of `id:controllers:path`, the path stands of the group that limits
  /// the CPU in a version: v2 has id 0 and no controllers, v1 lists `cpu` among the controllers.
  static func group(in text: Span<UInt8>, version: Version) -> Range<Int>? {
    var start = 0
    while start < text.count {
      let end = text.firstIndex(of: UInt8(ascii: "\n"), in: start..<text.count)
      let id = start..<text.firstIndex(of: UInt8(ascii: ":"), in: start..<end)
      let controllersStart = min(id.upperBound + 1, end)
      let controllers = controllersStart..<text.firstIndex(of: UInt8(ascii: ":"), in: controllersStart..<end)
      let path = min(controllers.upperBound + 1, end)..<end
      let found =
        switch version {
        case .v1: lists("cpu", in: text, controllers)
        case .v2: text.matches("0", in: id) && controllers.isEmpty
        }
      if found, !path.isEmpty { return path }
      start = end + 1
    }
    return nil
  }

  /// cpu.max: `<quota or "max"> <period>`.
  static func parseV2(_ text: Span<UInt8>) -> Int? {
    var position = 0
    guard let quota = text.number(at: &position), position < text.count, text[position] == UInt8(ascii: " ") else {
      return nil
    }
    position += 1
    return text.number(at: &position).flatMap { processors(quota: quota, period: $0) }
  }

  /// cpu.cfs_quota_us, where -1 stands for no quota, and cpu.cfs_period_us.
  static func parseV1(quota: Span<UInt8>, period: Span<UInt8>) -> Int? {
    var quotaPosition = 0
    var periodPosition = 0
    guard let quota = quota.number(at: &quotaPosition), let period = period.number(at: &periodPosition) else {
      return nil
    }
    return processors(quota: quota, period: period)
  }

  private static func processors(quota: Int, period: Int) -> Int? {
    guard quota > 0, period > 0 else { return nil }
    return (quota - 1) / period + 1
  }

  /// Whether a comma-separated list has the item.
  private static func lists(_ item: StaticString, in text: Span<UInt8>, _ list: Range<Int>) -> Bool {
    var start = list.lowerBound
    while start < list.upperBound {
      let end = text.firstIndex(of: UInt8(ascii: ","), in: start..<list.upperBound)
      if text.matches(item, in: start..<end) { return true }
      start = end + 1
    }
    return false
  }

  // MARK: The way up

  /// The smallest quota of the group whose path stands at `range` and of the groups above it, the root (empty path)
  /// last.
  private static func smallest(
    from text: Span<UInt8>, _ range: Range<Int>, quota: (_ directory: Span<UInt8>) -> Int?
  ) -> Int? {
    var end = range.upperBound
    var smallest: Int?
    while true {
      if end > range.lowerBound, text[end - 1] == UInt8(ascii: "/") { end -= 1 }
      if let found = quota(text.extracting(range.lowerBound..<end)) { smallest = min(smallest ?? found, found) }
      if end == range.lowerBound { return smallest }
      while end > range.lowerBound, text[end - 1] != UInt8(ascii: "/") { end -= 1 }
    }
  }

  /// `parse` of the contents of the file `mount` + `directory` + `name`; nil when it cannot be read.
  private static func contents(
    of directory: Span<UInt8>, _ mount: StaticString, _ name: StaticString, _ read: Reader,
    parse: (_ contents: Span<UInt8>) -> Int?
  ) -> Int? {
    let length = mount.utf8CodeUnitCount + directory.count + name.utf8CodeUnitCount + 1
    return withBytesOnStack(InlineArray<4160, UInt8>(repeating: 0)) { memory in
      // Longer paths name no file (PATH_MAX).
      guard length <= 4096 else { return nil }
      let path = UnsafeMutableBufferPointer(rebasing: memory[..<length])
      let buffer = UnsafeMutableBufferPointer(rebasing: memory[length...])
      var end = path.update(fromContentsOf: UnsafeBufferPointer(start: mount.utf8Start, count: mount.utf8CodeUnitCount))
      for index in 0..<directory.count {
        path[end] = directory[index]
        end += 1
      }
      for index in 0..<name.utf8CodeUnitCount {
        path[end] = name.utf8Start[index]
        end += 1
      }
      path[end] = 0
      let bytes = path.withMemoryRebound(to: CChar.self) { path in path.baseAddress.map { read($0, buffer) } ?? -1 }
      return bytes > 0 ? parse(UnsafeBufferPointer(rebasing: buffer[..<bytes]).span) : nil
    }
  }
}

/// Temporary memory as large as the array; `withUnsafeTemporaryAllocation` takes it from the heap from 1 KiB on.
private func withBytesOnStack<let count: Int, Result>(
  _ array: InlineArray<count, UInt8>, _ body: (UnsafeMutableBufferPointer<UInt8>) -> Result
) -> Result {
  var array = array
  return withUnsafeMutablePointer(to: &array) {
    $0.withMemoryRebound(to: UInt8.self, capacity: count) {
      body(UnsafeMutableBufferPointer(start: $0, count: count))
    }
  }
}
