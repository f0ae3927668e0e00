import CSwiftAttnShims

/// How many processors' worth of time the control groups grant the process.
///
/// A group may use no more than each group above it, so the answer is the smallest quota on the way up. The places are the
/// kernel's and systemd's: /sys/fs/cgroup for version 2, /sys/fs/cgroup/cpu for version 1's CPU controller.
enum CPUQuota {
  /// Reads the start of a file, given a NUL-terminated path, and returns the bytes read, or -1.
  typealias Reader = (_ path: UnsafePointer<CChar>, _ buffer: UnsafeMutableBufferPointer<UInt8>) -> Int

  /// The quota rounded up to whole processors, at least 1; nil when there is none.
  static func ofProcess() -> Int? {
    smallest { path, buffer in
      guard let base = buffer.baseAddress else { return -1 }
      return Int(sa_read_file(path, base, buffer.count))
    }
  }

  /// `ofProcess` over any set of files.
  static func smallest(read: Reader) -> Int? {
    withContents(of: "/proc/self/cgroup", capacity: 16384, read) { groups in
      let unified = group(in: groups, version: 2).flatMap { path in
        smallest(from: groups.extracting(path)) { group in
          withContents(of: "/sys/fs/cgroup", group, "/cpu.max", read) { parseVersion2($0) }
        }
      }
      let legacy = group(in: groups, version: 1).flatMap { path in
        smallest(from: groups.extracting(path)) { group in
          withContents(of: "/sys/fs/cgroup/cpu", group, "/cpu.cfs_quota_us", read) { quota in
            withContents(of: "/sys/fs/cgroup/cpu", group, "/cpu.cfs_period_us", read) { period in
              parseVersion1(quota: quota, period: period)
            }
          }
        }
      }
      guard let unified, let legacy else { return unified ?? legacy }
      return min(unified, legacy)
    }
  }
}
