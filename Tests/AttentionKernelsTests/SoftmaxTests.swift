import AttentionBlocks
import Foundation
import Testing

@testable import SwiftAttn

@Suite struct SoftmaxTests {
  /// How far the kernel sets the reference above the largest score, before rounding.
  private static let slack = 8

  /// Softmax of one vector of queries over `blocks` of keys, as [key][lane] probabilities, from base-2 scores.
  private func run<T: ComputeElement>(
    _ tier: InstructionSet, blocks: [[T]], headroom: T = 0
  ) -> (p: [[T]], m: [T], l: [T], o: [T]) {
    let lanes = T.lanes
    var m = [T](repeating: -.infinity, count: lanes)
    var l = [T](repeating: 0, count: lanes)
    var o = [T](repeating: 0, count: lanes)
    var probabilities: [[T]] = []
    for block in blocks {
      var scores = block
      withMatrix(&scores, stride: lanes) { matrix in
        withMatrix(&o, stride: lanes) { output in
          m.withUnsafeMutableBufferPointer { m in
            l.withUnsafeMutableBufferPointer { l in
              T.kernels(tier).scores.softmax(
                PanelScores(
                  scores: matrix, firstKey: 0, endKey: block.count / lanes, vectors: 1, visibility: nil,
                  visibilityStride: 0),
                SoftmaxState(
                  reference: m.baseAddress!, headroom: headroom, sum: l.baseAddress!, output: output,
                  outputDims: 1))
            }
          }
        }
      }
      // As the product with a value of 1 would.
      for key in 0..<block.count / lanes {
        for lane in 0..<lanes { o[lane] += scores[key * lanes + lane] }
      }
      probabilities.append(scores)
    }
    return (probabilities, m, l, o)
  }

  @Test("2^x is within 1.5 ulp from 0 to the smallest normal number, 1 at 0 and 0 at -inf", arguments: tiers)
  func exp2Accuracy(_ tier: InstructionSet) {
    exp2Accuracy(tier, Float.self, smallest: -126)
    exp2Accuracy(tier, Double.self, smallest: -1022)
  }

  private func exp2Accuracy<T: ComputeElement>(_ tier: InstructionSet, _: T.Type, smallest: Double) {
    let lanes = T.lanes
    // The first key holds the maximum, 0, so that m is the slack and the others are plain 2^x but for that.
    let scale = T(1 << Self.slack)
    var scores = [T](repeating: 0, count: lanes)
    let steps = 4001
    var inputs: [T] = []
    for i in 0..<steps * lanes {
      // Not a short binary fraction, so that every bit of the reduction matters.
      inputs.append(T((smallest + Double(Self.slack)) * Double(i) / Double(steps * lanes) * 0.999_987))
    }
    for first in stride(from: 0, to: inputs.count, by: 32 * lanes) {
      let part = Array(inputs[first..<min(first + 32 * lanes, inputs.count)])
      scores = [T](repeating: 0, count: lanes) + part
      let p = run(tier, blocks: [scores]).p[0]
      for (i, x) in part.enumerated() {
        let truth = Foundation.exp2(Double(x))
        let error = abs(Double(p[lanes + i] * scale) - truth) / truth
        #expect(error <= 1.5 * Double(T.ulpOfOne), "\(tier.name): 2^\(x)")
      }
    }
    let edge = run(tier, blocks: [[T](repeating: 0, count: lanes) + [T](repeating: -.infinity, count: lanes)]).p[0]
    #expect(edge == [T](repeating: 1 / scale, count: lanes) + [T](repeating: 0, count: lanes))
  }

  @Test("a rising maximum rescales sum and output", arguments: tiers)
  func rescale(_ tier: InstructionSet) {
    let lanes = Float.lanes
    let low = [Float](repeating: 0, count: 3 * lanes)
    // Lane i sees the maximum rise by i, of which the slack swallows the first few.
    let high = (0..<lanes).map { Float($0) }
    let result = run(tier, blocks: [low, high])
    for lane in 0..<lanes {
      let reference = Self.slack + (lane > Self.slack ? lane : 0)
      let expected = (3 + Foundation.exp2(Double(lane))) * Foundation.exp2(-Double(reference))
      #expect(result.m[lane] == Float(reference))
      #expect(abs(Double(result.l[lane]) - expected) <= 1e-6 * expected)
      #expect(abs(Double(result.o[lane]) - expected) <= 1e-6 * expected, "the output was not rescaled")
    }
  }

  @Test("headroom scales everything by an exact power of two", arguments: tiers)
  func headroom(_ tier: InstructionSet) {
    var numbers = Numbers(seed: 4)
    let blocks: [[Float]] = (0..<3).map { _ in numbers.array(6 * Float.lanes) }
    let plain = run(tier, blocks: blocks)
    let scaled = run(tier, blocks: blocks, headroom: 4)
    for lane in 0..<Float.lanes {
      #expect(scaled.m[lane] == plain.m[lane] + 4)
      #expect(scaled.l[lane] * 16 == plain.l[lane])
      #expect(scaled.l[lane] <= 18 / 16, "18 keys of at most 1/16")
    }
  }

  @Test("a reference too large for the rounding shift changes no other lane's bits", arguments: tiers)
  func largeReference(_ tier: InstructionSet) {
    let lanes = Float.lanes
    var numbers = Numbers(seed: 6)
    let blocks: [[Float]] = (0..<3).map { _ in numbers.array(5 * lanes) }
    let plain = run(tier, blocks: blocks)
    let large = run(
      tier, blocks: blocks.map { block in block.indices.map { $0 % lanes == 2 ? block[$0] * 1e9 : block[$0] } })
    for lane in 0..<lanes where lane != 2 {
      #expect(large.l[lane] == plain.l[lane] && large.o[lane] == plain.o[lane])
    }
    // One key holds the maximum, and the others are far below.
    let maximum = blocks.joined().enumerated().filter { $0.offset % lanes == 2 }.map { $0.element * 1e9 }.max()
    #expect(abs(Foundation.log2(large.l[2]) + large.m[2] - (maximum ?? 0)) <= 1e-6 * abs(maximum ?? 0))
    #expect(large.l[2] > 0 && large.l[2].isFinite)
  }

  @Test("rows that have seen nothing stay empty and rows with NaN stay their own", arguments: tiers)
  func emptyAndNaN(_ tier: InstructionSet) {
    let lanes = Float.lanes
    var scores = [Float](repeating: -.infinity, count: 2 * lanes)
    scores[1] = 3
    scores[2] = .nan
    let result = run(tier, blocks: [scores, scores])
    #expect(result.m[0] == -.infinity && result.l[0] == 0 && result.o[0] == 0)
    #expect(result.m[1] == Float(3 + Self.slack) && result.l[1] == 2 / Float(1 << Self.slack))
    #expect(result.l[2].isNaN)
    #expect(result.l[3] == 0)
  }

  @Test("dS = P (dP - delta), zero where hidden", arguments: tiers)
  func gradient(_ tier: InstructionSet) {
    let lanes = Double.lanes
    var numbers = Numbers(seed: 3)
    let s: [Double] = numbers.array(5 * lanes)
    let dP: [Double] = numbers.array(5 * lanes)
    let lse: [Double] = (0..<lanes).map { _ in 2 + numbers.next() }
    let delta: [Double] = numbers.array(lanes)
    let words = (0..<lanes).map { UInt64(0b11111) & ~(UInt64(1) << UInt64($0 % 5)) }
    var scores = s
    var gradient = dP.indices.map { dP[$0] - delta[$0 % lanes] }
    withMatrix(&scores, stride: lanes) { scores in
      withMatrix(&gradient, stride: lanes) { gradient in
        visibilityWords(words).withUnsafeBufferPointer { visibility in
          Double.kernels(tier).scores.softmaxGradient(
            PanelScores(
              scores: scores, firstKey: 0, endKey: 5, vectors: 1, visibility: visibility.baseAddress,
              visibilityStride: lanes),
            SoftmaxGradient(gradient: gradient, logSumExp: lse))
        }
      }
    }
    for key in 0..<5 {
      for lane in 0..<lanes {
        let at = key * lanes + lane
        let p = words[lane] >> UInt64(key) & 1 == 1 ? Foundation.exp2(s[at] - lse[lane]) : 0
        #expect(abs(scores[at] - p) < 1e-14)
        #expect(abs(gradient[at] - p * (dP[at] - delta[lane])) < 1e-14)
      }
    }
  }

  @Test("a few queries with keys in the lanes: the bits of queries in the lanes", arguments: tiers)
  func rows(_ tier: InstructionSet) {
    for keys in [1, 2, 15, 16, 37, 64] {
      for hides in [false, true] {
        rows(tier, Float.self, keys: keys, hides: hides)
        rows(tier, Double.self, keys: keys, hides: hides)
      }
    }
  }

  /// Both kernels on three blocks of keys, the scores of the later ones higher, so that the accumulator is rescaled.
  private func rows<T: ComputeElement>(_ tier: InstructionSet, _: T.Type, keys: Int, hides: Bool) {
    let (count, lanes, dims, firstKey) = (3, T.lanes, 5, keys < 60 ? 4 : 0)
    var numbers = Numbers(seed: UInt64(keys))
    var words = [UInt64](repeating: ~0, count: lanes)
    if hides {
      for lane in 0..<count { words[lane] = UInt64(abs(numbers.next() as Double) * 0x1p62) }
      words[1] = 0
    }
    let visibility = visibilityWords(words)
    var panel = State<T>(rows: dims, stride: lanes, numbers: &numbers)
    var rows = State<T>(rows: count, stride: 2 * T.lanes, numbers: &numbers)
    for lane in 0..<count { for d in 0..<dims { rows.o[lane * 2 * lanes + d] = panel.o[d * lanes + lane] } }
    for block in 0..<3 {
      var byKey: [T] = numbers.array(64 * lanes)
      for i in byKey.indices { byKey[i] = byKey[i] * 30 + T(40 * block) }
      // What lies past the last key must not count.
      var byRow = [T](repeating: 1000, count: count * 64)
      for key in 0..<keys { for lane in 0..<count { byRow[lane * 64 + key] = byKey[(firstKey + key) * lanes + lane] } }
      visibility.withUnsafeBufferPointer { bits in
        let bits = hides ? bits.baseAddress : nil
        withMatrix(&byKey, stride: lanes) { scores in
          let scores = PanelScores(
            scores: scores, firstKey: firstKey, endKey: firstKey + keys, vectors: 1, visibility: bits,
            visibilityStride: lanes)
          panel.with(stride: lanes, dims: dims) { T.kernels(tier).scores.softmax(scores, $0) }
        }
        withMatrix(&byRow, stride: 64) { scores in
          let scores = RowScores(
            scores: scores, rows: count, firstKey: firstKey, keys: keys, visibility: bits, visibilityStride: lanes)
          rows.with(stride: 2 * lanes, dims: dims) { T.kernels(tier).scores.softmaxRows(scores, $0) }
        }
      }
      let what = "\(tier.name) \(T.self) \(keys) keys, block \(block), hides \(hides)"
      for lane in 0..<count {
        #expect(panel.m[lane] == rows.m[lane] && panel.l[lane] == rows.l[lane], "\(what)")
        for key in 0..<keys { #expect(byKey[(firstKey + key) * lanes + lane] == byRow[lane * 64 + key], "\(what)") }
        for d in 0..<dims { #expect(panel.o[d * lanes + lane] == rows.o[lane * 2 * lanes + d], "\(what)") }
      }
    }
  }

  /// A running softmax with an accumulator of any numbers.
  private struct State<T: ComputeElement> {
    var m = [T](repeating: -.infinity, count: T.lanes)
    var l = [T](repeating: 0, count: T.lanes)
    var o: [T]

    init(rows: Int, stride: Int, numbers: inout Numbers) { o = numbers.array(rows * stride) }

    mutating func with(stride: Int, dims: Int, _ body: (SoftmaxState<T>) -> Void) {
      m.withUnsafeMutableBufferPointer { m in
        l.withUnsafeMutableBufferPointer { l in
          withMatrix(&o, stride: stride) { output in
            body(
              SoftmaxState(
                reference: m.baseAddress!, headroom: 6, sum: l.baseAddress!, output: output, outputDims: dims))
          }
        }
      }
    }
  }
}
