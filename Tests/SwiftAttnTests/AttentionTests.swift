import Foundation
import Testing

@testable import SwiftAttn

/// The Swift API against a direct computation in Double. The Python tests cross all options; these show that the way
/// through `Tensor` is right.
@Suite struct AttentionTests {
  private struct Reference {
    var out: [Double]
    var lse: [Double]
  }

  /// out and lse of (Hq, Sq, D) x (Hkv, Sk, D) x (Hkv, Sk, Dv), with `sees` deciding which pairs attend.
  private func reference<T: ComputeElement>(
    _ q: Tensor<T>, _ k: Tensor<T>, _ v: Tensor<T>, sees: (Int, Int) -> Bool
  ) -> Reference {
    let (heads, sq, d) = (q.shape[0], q.shape[1], q.shape[2])
    let (headsKV, sk, dv) = (k.shape[0], k.shape[1], v.shape[2])
    var result = Reference(out: [], lse: [])
    for head in 0..<heads {
      let kv = head / (heads / headsKV)
      for i in 0..<sq {
        let scores = (0..<sk).map { j -> Double in
          guard sees(i, j) else { return -.infinity }
          let dot = (0..<d).reduce(0.0) {
            $0 + Double(q.elements[(head * sq + i) * d + $1]) * Double(k.elements[(kv * sk + j) * d + $1])
          }
          return dot / Double(d).squareRoot()
        }
        let weights = scores.map { Foundation.exp($0) }
        let sum = weights.reduce(0, +)
        result.lse.append(Foundation.log(sum))
        for e in 0..<dv {
          let weighted = (0..<sk).reduce(0.0) { $0 + weights[$1] * Double(v.elements[(kv * sk + $1) * dv + e]) }
          result.out.append(sum == 0 ? 0 : weighted / sum)
        }
      }
    }
    return result
  }

  private func expectClose<T: ComputeElement>(_ got: Tensor<T>, _ truth: [Double], _ what: String) {
    #expect(got.elements.count == truth.count)
    for (i, (x, t)) in zip(got.elements, truth).enumerated() {
      #expect(Double(x) == t || abs(Double(x) - t) <= 16 * Double(T.ulpOfOne) * max(1, abs(t)), "\(what)[\(i)]")
    }
  }

  @Test("forward and its lse, grouped heads, causal", arguments: tiers)
  func forward(_ tier: InstructionSet) throws {
    try using(tier) {
      var tensors = Tensors(seed: 5)
      let q: Tensor<Float> = try tensors.next([4, 70, 24])
      let k: Tensor<Float> = try tensors.next([2, 70, 24])
      let v: Tensor<Float> = try tensors.next([2, 70, 9])
      let output = try Attention<Float>(causal: .topLeft).forward(query: q, key: k, value: v)
      let truth = reference(q, k, v) { $1 <= $0 }
      #expect(output.out.shape == [4, 70, 9] && output.lse.shape == [4, 70])
      expectClose(output.out, truth.out, "out")
      expectClose(output.lse, truth.lse, "lse")
    }
  }

  @Test("gradients by central differences", arguments: tiers)
  func gradients(_ tier: InstructionSet) throws {
    try using(tier) {
      var tensors = Tensors(seed: 6)
      let shapes = [[2, 3, 4], [1, 5, 4], [1, 5, 3], [2, 1, 5]]
      var operands: [Tensor<Double>] = try shapes.map { try tensors.next($0) }
      let weights: Tensor<Double> = try tensors.next([2, 3, 3])
      func loss(_ x: [Tensor<Double>]) throws -> Double {
        let out = try Attention(causal: .bottomRight, bias: x[3])(query: x[0], key: x[1], value: x[2])
        return zip(out.elements, weights.elements).reduce(0) { $0 + $1.0 * $1.1 }
      }
      let attention = Attention(causal: .bottomRight, bias: operands[3])
      let output = try attention.forward(query: operands[0], key: operands[1], value: operands[2])
      let gradients = try attention.backward(
        weights, query: operands[0], key: operands[1], value: operands[2], output: output)
      let analytic = [gradients.query, gradients.key, gradients.value, try #require(gradients.bias)]
      for which in 0..<4 {
        #expect(analytic[which].shape == shapes[which])
        for i in operands[which].elements.indices {
          let x = operands[which].elements[i]
          operands[which].elements[i] = x + 1e-5
          let above = try loss(operands)
          operands[which].elements[i] = x - 1e-5
          let below = try loss(operands)
          operands[which].elements[i] = x
          #expect(abs(analytic[which].elements[i] - (above - below) / 2e-5) < 1e-8, "operand \(which), element \(i)")
        }
      }
    }
  }

  @Test("rows that see nothing give zero, lse -infinity and no gradient")
  func emptyRows() throws {
    var tensors = Tensors(seed: 8)
    let x: Tensor<Float> = try tensors.next([1, 1, 6, 4])
    var attention = Attention<Float>()
    attention.keyLengths = [0]
    let output = try attention.forward(query: x, key: x, value: x)
    #expect(output.out.elements.allSatisfy { $0 == 0 })
    #expect(output.lse.elements.allSatisfy { $0 == -.infinity })
    let gradients = try attention.backward(x, query: x, key: x, value: x, output: output)
    #expect((gradients.query.elements + gradients.key.elements + gradients.value.elements).allSatisfy { $0 == 0 })
  }

  @Test("rows past their batch element's query length, and keys past its key length, do not take part")
  func lengths() throws {
    var tensors = Tensors(seed: 9)
    let q: Tensor<Float> = try tensors.next([2, 1, 6, 4])
    let k: Tensor<Float> = try tensors.next([2, 1, 7, 4])
    var attention = Attention<Float>()
    attention.queryLengths = [2, 5]
    attention.keyLengths = [7, 3]
    let output = try attention.forward(query: q, key: k, value: k)
    var truth = Reference(out: [], lse: [])
    for (batch, (queries, keys)) in [(2, 7), (5, 3)].enumerated() {
      let query = try Tensor(Array(q.elements[24 * batch..<24 * (batch + 1)]), shape: [1, 6, 4])
      let key = try Tensor(Array(k.elements[28 * batch..<28 * (batch + 1)]), shape: [1, 7, 4])
      let one = reference(query, key, key) { $0 < queries && $1 < keys }
      truth.out += one.out
      truth.lse += one.lse
    }
    expectClose(output.out, truth.out, "out")
    expectClose(output.lse, truth.lse, "lse")
    attention.queryLengths = [2, 5, 1]
    expectError("query_lengths has shape (3,) but must have (2,)") { () throws(AttentionError) in
      _ = try attention(query: q, key: k, value: k)
    }
  }

  @Test("same bits for any number of threads, where threads share a head")
  func sameBits() throws {
    var tensors = Tensors(seed: 10)
    let q: Tensor<Float> = try tensors.next([1, 700, 32])
    let k: Tensor<Float> = try tensors.next([1, 650, 32])
    try expectSameBits(threads: [1, 2, 3, 5]) {
      let attention = Attention<Float>(causal: .topLeft)
      let output = try attention.forward(query: q, key: k, value: k)
      let gradients = try attention.backward(q, query: q, key: k, value: k, output: output)
      return output.out.elements + gradients.query.elements + gradients.key.elements + gradients.value.elements
    }
  }

  @Test("a tensor must have as many elements as its shape says")
  func tensorShape() throws {
    #expect(throws: AttentionError.self) { try Tensor([1, 2, 3], shape: [2, 2]) }
    #expect(throws: AttentionError.self) { try Tensor(repeating: 0, shape: [-1]) }
    #expect(throws: AttentionError.self) { try Tensor([1], shape: [1, 1, 1, 1, 1, 1, 1, 1, 1]) }
    #expect(try Tensor([1], shape: []).shape.isEmpty)
    expectError("a tensor cannot have the shape (3, -2)") { () throws(AttentionError) in
      _ = try Tensor<Float>(unwrittenShape: [3, -2])
    }
    expectError("a tensor cannot have the shape (4294967296, 4294967296)") { () throws(AttentionError) in
      _ = try Tensor<Float>(unwrittenShape: [1 << 32, 1 << 32])
    }
    #expect(try Tensor<Float>(unwrittenShape: [3, 2]).elements.count == 6)
  }
}
