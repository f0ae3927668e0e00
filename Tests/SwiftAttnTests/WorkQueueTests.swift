import Testing

@testable import SwiftAttn

/// Who gets which item of a call.
@Suite struct WorkQueueTests {
  /// The items that each participant claims when `order` says whose turn it is, until nobody finds any.
  private func claims(_ items: WorkItems, participants: Int, order: (_ turn: Int) -> Int) -> [[Int]] {
    var claimed = [[Int]](repeating: [], count: participants)
    var counters = WorkQueue.Counters(repeating: 0)
    withUnsafeMutablePointer(to: &counters) { counters in
      let queue = WorkQueue(items, participants: participants, counting: counters)
      var turn = 0
      while true {
        let participant = order(turn)
        guard let item = queue.claim(participant: participant) else { break }
        claimed[participant].append(item)
        turn += 1
      }
      for participant in 0..<participants { #expect(queue.claim(participant: participant) == nil) }
    }
    return claimed
  }

  @Test(
    "every item is claimed once, whoever claims",
    arguments: [
      WorkItems(), WorkItems(owned: 1), WorkItems(shared: 1), WorkItems(owned: 24), WorkItems(owned: 24, shared: 7),
      WorkItems(owned: 25, shared: 2), WorkItems(owned: 3, shared: 40),
    ])
  func once(_ items: WorkItems) {
    for participants in [1, 2, 3, 7, 8, 9, 40] {
      let orders: [(String, (Int) -> Int)] = [
        ("in turn", { $0 % participants }), ("the first alone", { _ in 0 }),
        ("the last alone", { _ in participants - 1 }),
        ("unevenly", { $0 % 5 == 0 ? 0 : ($0 * $0) % participants }),
      ]
      for (name, order) in orders {
        let claimed = claims(items, participants: participants, order: order)
        #expect(claimed.flatMap { $0 }.sorted() == Array(0..<items.count), "\(participants) participants, \(name)")
      }
    }
  }

  @Test("each thread has a range of its own, whatever the others do", arguments: [2, 3, 4, 8])
  func ranges(_ participants: Int) {
    let items = WorkItems(owned: 5 * participants, shared: 3)
    let claimed = claims(items, participants: participants) { $0 % participants }
    for participant in 0..<participants {
      let own = Array(5 * participant..<5 * participant + 5)
      #expect(claimed[participant].prefix(5) == own[...])
    }
  }

  @Test("who has done its own items goes on with those of others, then with the shared ones, in order")
  func afterwards() {
    // The second does its own two and three of the first's before that one begins.
    let claimed = claims(WorkItems(owned: 8, shared: 3), participants: 2) { $0 < 7 || $0 > 8 ? 1 : 0 }
    #expect(claimed == [[3, 8], [4, 5, 6, 7, 0, 1, 2, 9, 10]])
  }
}
