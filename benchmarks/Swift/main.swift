import FMAPeak
import Foundation
import SwiftAttn

// swift run -c release swiftattn-benchmark [filter]
//
// The throughput rows of cases.json through the Swift API, and its matrix products: the FMA peak and the call take
// turns, and what is reported is the median over the rounds.

let rounds = 5
let secondsPerTurn = 0.3

/// The peak of `threads` threads at once, in GFLOP/s.
func peak(_ isa: InstructionSet, isDouble: Bool, threads: Int) -> Double {
  let rates = UnsafeMutableBufferPointer<Double>.allocate(capacity: threads)
  defer { rates.deallocate() }
  let name = isa.name.withUTF8Buffer { String(decoding: $0, as: UTF8.self) }
  nonisolated(unsafe) let slots = rates
  DispatchQueue.concurrentPerform(iterations: threads) { index in
    slots[index] = swiftattn_fma_peak(name, isDouble ? 1 : 0, 0.05)
  }
  return rates.reduce(0, +)
}

func seconds(_ body: () throws -> Void) rethrows -> Double {
  let start = DispatchTime.now().uptimeNanoseconds
  try body()
  return Double(DispatchTime.now().uptimeNanoseconds - start) * 1e-9
}

func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

/// Times one case and prints its line.
func measure(_ row: some Measurable, _ run: () throws -> Void) throws {
  let isa = try InstructionSet.allCases.first { set in
    try row.isa.map { name in "\(set.name)" == name } ?? (set == Dispatch.current())
  }
  guard let isa, isa.isSupported, ThreadCount.set(row.threads) else { return print("\(row.name): not on this machine") }
  try Dispatch.choose(isa)
  defer { Dispatch.chooseDefault() }
  try run()
  var samples: [Double] = []
  var shares: [Double] = []
  for _ in 0..<rounds {
    let before = peak(isa, isDouble: row.dtype == "f64", threads: row.threads)
    var turn: [Double] = []
    repeat { turn.append(try seconds(run)) } while turn.reduce(0, +) < secondsPerTurn
    samples += turn
    let after = peak(isa, isDouble: row.dtype == "f64", threads: row.threads)
    shares.append(row.flops / median(turn) * 1e-9 / ((before + after) / 2))
  }
  let sorted = samples.sorted()
  let (low, high) = (sorted[sorted.count / 4], sorted[sorted.count * 3 / 4])
  let text = String(
    format: "%@  %9.3f ms (%.3f-%.3f)  %7.1f GFLOP/s  %5.1f %% of peak  reach %.0f %%  %@",
    row.name.padding(toLength: 48, withPad: " ", startingAt: 0), median(samples) * 1e3, low * 1e3, high * 1e3,
    row.flops / median(samples) * 1e-9, median(shares) * 100, row.reach * 100,
    median(shares) >= row.reach ? "met" : "missed")
  print(text)
}

let cases = try Cases(
  from: URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(path: "../cases.json"))
let filter = CommandLine.arguments.dropFirst().first
for row in cases.throughput.rows where filter.map(row.name.contains) ?? true {
  try measure(row, row.workload().run)
}
for row in cases.products.rows where filter.map(row.name.contains) ?? true {
  try row.prepared { product in try measure(row) { try product.run(threads: row.threads) } }
}
