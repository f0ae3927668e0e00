import CSwiftAttnShims
import CTestSupport
import Synchronization
import Testing

@testable import SwiftAttn

@Suite(.serialized) struct ThreadPoolSizeTests {
  private static func withSpan<Result>(_ text: String, _ body: (Span<UInt8>) -> Result) -> Result {
    let bytes = Array(text.utf8)
    return body(bytes.span)
  }

  // MARK: ThreadCount

  @Test func setCountHoldsUntilReset() {
    takingTurns {
      let original = ThreadCount.current
      for count in [1, 3, ThreadCount.maximum] {
        #expect(ThreadCount.set(count))
        #expect(ThreadCount.current == count)
      }
      for count in [-1, ThreadCount.maximum + 1, Int.min, Int.max] {
        #expect(!ThreadCount.set(count))
        #expect(ThreadCount.current == ThreadCount.maximum)
      }
      #expect(ThreadCount.set(0))
      #expect(ThreadCount.current == original)
    }
  }

  @Test(arguments: [
    ("1", 1), ("8", 8), ("1024", 1024), ("007", 7), ("0", nil), ("1025", nil), ("-1", nil), ("+2", nil), ("", nil),
    ("2 ", nil), (" 2", nil), ("2,4", nil), ("four", nil), ("1.5", nil), ("18446744073709551617", nil),
  ])
  func parsesTheEnvironmentVariable(text: String, count: Int?) {
    #expect(Self.withSpan(text, ThreadCount.parse) == count)
  }

  /// In a thread that may run on one processor only; the mask is the thread's own and ends with it.
  @Test func affinityCountsTheProcessorsOfTheThread() {
    let counts = Mutex<[Int32]>([])
    let join = startThreads(1) { _ in
      let before = sa_affinity_count()
      let processors = sa_test_keep_one_processor()
      counts.withLock { $0 = [processors, before, sa_affinity_count()] }
    }
    join()
    let found = counts.withLock { $0 }
    #expect(found.count == 3 && found[0] > 0 && found[1] == found[0] && found[2] == 1)
  }

  // MARK: CPUQuota

  @Test(arguments: [
    ("max 100000\n", nil), ("150000 100000\n", 2), ("200000 100000\n", 2), ("200001 100000\n", 3), ("1000 100000\n", 1),
    ("50000 20000", 3), ("0 100000\n", nil), ("100000 0\n", nil), ("100000\n", nil), ("100000 ", nil), ("", nil),
    ("99999999999999999999 100000\n", nil),
  ])
  func parsesVersion2(text: String, processors: Int?) {
    #expect(Self.withSpan(text, CPUQuota.parseV2) == processors)
  }

  @Test(arguments: [
    ("-1\n", "100000\n", nil), ("150000\n", "100000\n", 2), ("100000\n", "100000\n", 1), ("1\n", "100000\n", 1),
    ("400000\n", "50000\n", 8), ("0\n", "100000\n", nil), ("100000\n", "0\n", nil), ("", "100000\n", nil),
    ("100000\n", "", nil),
  ])
  func parsesVersion1(quota: String, period: String, processors: Int?) {
    let found = Self.withSpan(quota) { quota in
      Self.withSpan(period) { period in CPUQuota.parseV1(quota: quota, period: period) }
    }
    #expect(found == processors)
  }

  @Test(arguments: [
    ("0::/user.slice/a:b\n", nil, "/user.slice/a:b"),
    ("0::/\n", nil, "/"),
    ("3:cpuset:/sets\n2:cpu,cpuacct:/docker/x\n0::/unified\n", "/docker/x", "/unified"),
    ("4:cpuacct,cpu:/last", "/last", nil),
    ("5:cpuset,cpuacct:/neither\n1:name=systemd:/cpu\n", nil, nil),
    ("", nil, nil), ("\n\n", nil, nil), ("0", nil, nil), ("0:", nil, nil), ("0::", nil, nil), ("2:cpu", nil, nil),
  ])
  func findsTheGroups(text: String, v1: String?, v2: String?) {
    let bytes = Array(text.utf8)
    for (version, expected) in [(CPUQuota.Version.v1, v1), (.v2, v2)] {
      let found = CPUQuota.group(in: bytes.span, version: version)
      #expect(found.map { String(decoding: bytes[$0], as: UTF8.self) } == expected)
    }
  }

  @Test func theSmallestQuotaOnTheWayUpCounts() {
    let v2 = "/sys/fs/cgroup"
    let v1 = "/sys/fs/cgroup/cpu"
    let cases: [([String: String], Int?)] = [
      ([:], nil),
      (["/proc/self/cgroup": "0::/a/b\n"], nil),
      (["/proc/self/cgroup": "0::/a/b\n", v2 + "/a/b/cpu.max": "max 100000\n"], nil),
      (["/proc/self/cgroup": "0::/a/b\n", v2 + "/a/b/cpu.max": "300000 100000\n"], 3),
      (
        [
          "/proc/self/cgroup": "0::/a/b\n", v2 + "/a/b/cpu.max": "300000 100000\n",
          v2 + "/a/cpu.max": "150000 100000\n", v2 + "/cpu.max": "800000 100000\n",
        ], 2
      ),
      (["/proc/self/cgroup": "0::/\n", v2 + "/cpu.max": "100000 100000\n"], 1),
      // The path of a version 1 group is the host's, which a container does not have: its root is the container's
      // group.
      (
        [
          "/proc/self/cgroup": "2:cpu,cpuacct:/docker/0123\n", v1 + "/cpu.cfs_quota_us": "400000\n",
          v1 + "/cpu.cfs_period_us": "100000\n",
        ], 4
      ),
      (
        [
          "/proc/self/cgroup": "2:cpu:/a\n0::/a\n", v1 + "/a/cpu.cfs_quota_us": "-1\n",
          v1 + "/a/cpu.cfs_period_us": "100000\n", v2 + "/a/cpu.max": "500000 100000\n",
        ], 5
      ),
      (
        [
          "/proc/self/cgroup": "2:cpu:/a\n0::/a\n", v1 + "/a/cpu.cfs_quota_us": "200000\n",
          v1 + "/a/cpu.cfs_period_us": "100000\n", v2 + "/a/cpu.max": "500000 100000\n",
        ], 2
      ),
    ]
    for (files, expected) in cases {
      let found = CPUQuota.smallest { path, buffer in
        guard let contents = files[String(cString: path)] else { return -1 }
        return buffer.update(fromContentsOf: contents.utf8.prefix(buffer.count))
      }
      #expect(found == expected, "\(files)")
    }
  }

  @Test func readsRealFiles() {
    var buffer = [UInt8](repeating: 0, count: 8)
    #expect(sa_read_file("/proc/self/stat-of-nobody", &buffer, buffer.count) == -1)
    #expect(sa_read_file("/proc/self/cgroup", &buffer, 0) == 0)
    #expect(sa_read_file("/proc/cpuinfo", &buffer, buffer.count) == buffer.count)
    #expect(sa_read_file("/dev/null", &buffer, buffer.count) == 0)
    #expect(sa_read_file("/", &buffer, buffer.count) == -1)
  }
}
