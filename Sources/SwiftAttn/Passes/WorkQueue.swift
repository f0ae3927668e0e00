import Synchronization

/// How many items a call has. The first `owned` are cut into ranges, one for each thread; the `shared` ones after them
/// are drawn by all, in order.
struct WorkItems: Equatable {
  var owned = 0
  var shared = 0

  var count: Int { owned + shared }

  init(owned: Int = 0, shared: Int = 0) {
    self.owned = owned
    self.shared = shared
  }
}

/// Hands out the items of a call.
///
/// Each thread begins with a range of its own, the same in every step and every call that has the same shape: what it
/// works on was mostly written by itself, and is in its caches. Who has done its range goes on with those of others,
/// and then with what is shared, so that threads end together however unevenly they were slowed down.
///
/// What that gains depends on how far apart the caches are. Zen 4, two threads, a layer of 512, against one counter for
/// all: where they share the last level (the other's lines 31 ns away), 0 to 3 %; in spells in which the virtual
/// machine has them on two (165 ns), forward 5 % at (1, 128), 4 at (8, 128) and 1 at (1, 512), of packed weights 4, 7
/// and 4, forward + backward 4 at (8, 128) and 6 at (1, 512); but -1 and -4 % for one token. Larger machines have many
/// such last levels. With more than two threads, which of them is which participant, and so has which range, may change
/// from call to call.
struct WorkQueue: ~Copyable {
  /// Room for the counters, zero: atomics in an array of fixed length, which Embedded Swift cannot destroy.
  typealias Counters = InlineArray<9, Int>
  /// More threads than this share ranges.
  private static var mostRanges: Int { Counters.count - 1 }

  let count: Int
  /// None where one thread draws everything.
  private let ranges: Int
  private let itemsPerRange: Int
  private let firstShared: Int
  /// Items drawn of each range, and in the last place of those that are shared.
  private let drawn: UnsafeMutablePointer<Atomic<Int>>

  /// The counters live as long as the queue.
  init(_ items: WorkItems, participants: Int, counting counters: UnsafeMutablePointer<Counters>) {
    count = items.count
    let isDivided = participants > 1 && items.owned > 0
    ranges = isDivided ? min(participants, Self.mostRanges) : 0
    itemsPerRange = isDivided ? items.owned / ranges : 0
    firstShared = isDivided ? items.owned : 0
    drawn = UnsafeMutableRawPointer(counters).bindMemory(to: Atomic<Int>.self, capacity: Counters.count)
  }

  /// The next item, nil when there are none left.
  func claim(participant: Int) -> Int? {
    var range = participant < ranges ? participant : participant % max(ranges, 1)
    for _ in 0..<ranges {
      let end = range + 1 < ranges ? (range + 1) * itemsPerRange : firstShared
      if let item = draw(range, from: range * itemsPerRange, to: end) { return item }
      range = range + 1 < ranges ? range + 1 : 0
    }
    return draw(Self.mostRanges, from: firstShared, to: count)
  }

  private func draw(_ place: Int, from first: Int, to end: Int) -> Int? {
    // Looked at before, so that who finds nothing leaves the counter where it is.
    guard first + drawn[place].load(ordering: .relaxed) < end else { return nil }
    let item = first + drawn[place].add(1, ordering: .relaxed).oldValue
    return item < end ? item : nil
  }
}
