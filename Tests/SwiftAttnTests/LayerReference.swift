import Foundation

@testable import SwiftAttn

/// What a layer gives, computed in Double pair by pair, as its formulas read.
struct LayerReference<T: ComputeElement> {
  /// (B..., Sq, E), row-major.
  private(set) var out: [Double] = []
  /// The softmax (B..., Hq, Sq, Sk'), the learned and the zero key last.
  private(set) var weights: [Double] = []

  private let layer: MultiHeadAttention<T>
  private let inputs: MultiHeadAttention<T>.Inputs
  private let key: Tensor<T>
  private var lengths: (query: Int, key: Int) { (inputs.query.length, key.length) }

  init(_ layer: MultiHeadAttention<T>, _ inputs: MultiHeadAttention<T>.Inputs) {
    self.layer = layer
    self.inputs = inputs
    key = inputs.key ?? inputs.query
    let value = inputs.value ?? key
    let (rope, heads) = (layer.rope, layer.numHeads)
    for b in 0..<inputs.query.shape.dropLast(2).reduce(1, *) {
      let queries = self.heads(inputs.query.rows(b), .queryWeight, heads, turnedFrom: rope?.offset)
      let keys = self.heads(key.rows(b), .keyWeight, layer.numKVHeads, turnedFrom: rope?.keyOffset ?? rope?.offset)
      let values = self.heads(value.rows(b), .valueWeight, layer.numKVHeads, turnedFrom: nil)
      var merged = [[Double]](repeating: [], count: lengths.query)
      for head in 0..<heads {
        let shared = head / (heads / layer.numKVHeads)
        let (keys, values) = (keys[shared] + own(.keyToken, shared), values[shared] + own(.valueToken, shared))
        for i in 0..<lengths.query {
          let probabilities = softmax(queries[head][i], keys, at: (b * heads + head) * lengths.query + i)
          weights += probabilities
          merged[i] += weigh(values, probabilities)
        }
      }
      out += map(merged, .outWeight).flatMap { $0 }
    }
  }

  /// The average of the weights over the heads, (B..., Sq, Sk').
  var averageWeights: [Double] {
    let size = weights.count / max(inputs.query.shape.dropLast(2).reduce(1, *) * layer.numHeads, 1)
    return (0..<weights.count / layer.numHeads).map { i in
      let sum = (0..<layer.numHeads).reduce(0) { $0 + weights[(i / size * layer.numHeads + $1) * size + i % size] }
      return sum / Double(layer.numHeads)
    }
  }

  /// x W^T + b
  private func map(_ x: [[Double]], _ parameter: LayerParameter) -> [[Double]] {
    let weight = layer.parameters[parameter]?.rows(0) ?? []
    let bias = LayerParameter(rawValue: parameter.rawValue + 4).flatMap { layer.parameters[$0] }
    return x.map { row in
      weight.enumerated().map { dot(row, $1) + Double(bias?.elements[$0] ?? 0) }
    }
  }

  /// The rows of each head, turned by their positions unless there is no first one.
  private func heads(
    _ x: [[Double]], _ parameter: LayerParameter, _ count: Int, turnedFrom offset: Int?
  ) -> [[[Double]]] {
    let rows = map(x, parameter)
    return (0..<count).map { head in
      rows.enumerated().map { position, row in
        let part = part(row, head, of: count)
        return offset.map { turn(part, to: position + $0) } ?? part
      }
    }
  }

  private func part(_ row: [Double], _ head: Int, of count: Int) -> [Double] {
    let width = row.count / count
    return Array(row[head * width..<(head + 1) * width])
  }

  private func turn(_ row: [Double], to position: Int) -> [Double] {
    guard let rope = layer.rope else { return row }
    let dim = rope.dim ?? row.count
    var turned = row
    for t in 0..<dim / 2 {
      let angle = Double(position) / rope.scaling * Foundation.pow(rope.base, -2 * Double(t) / Double(dim))
      let (first, second) = rope.interleaved ? (2 * t, 2 * t + 1) : (t, t + dim / 2)
      turned[first] = row[first] * Foundation.cos(angle) - row[second] * Foundation.sin(angle)
      turned[second] = row[first] * Foundation.sin(angle) + row[second] * Foundation.cos(angle)
    }
    return turned
  }

  /// The layer's own rows of one head: the learned one, then the zeros.
  private func own(_ token: LayerParameter, _ head: Int) -> [[Double]] {
    let learned = layer.parameters[token].map { [part($0.elements.map(Double.init), head, of: layer.numKVHeads)] } ?? []
    return learned + (layer.addsZeroToken ? [[]] : [])
  }

  /// Of one query with all keys, seen or not; `row` counts the rows of the scores.
  private func softmax(_ query: [Double], _ keys: [[Double]], at row: Int) -> [Double] {
    let scale = 1 / Double(query.count).squareRoot()
    let scores = keys.enumerated().map { j, key in
      guard j < lengths.key else { return dot(query, key) * scale }
      guard sees(row, j) else { return -.infinity }
      return dot(query, key) * scale + (inputs.bias.map { Double(element($0, row, j)) } ?? 0)
    }
    let largest = scores.max() ?? 0
    let exponentials = scores.map { $0 == -.infinity ? 0 : Foundation.exp($0 - largest) }
    let sum = exponentials.reduce(0, +)
    return exponentials.map { sum == 0 ? 0 : $0 / sum }
  }

  private func sees(_ row: Int, _ key: Int) -> Bool {
    let query = row % lengths.query
    switch inputs.causal {
    case .none: break
    case .topLeft: if key > query { return false }
    case .bottomRight: if key > query + lengths.key - lengths.query { return false }
    }
    if let all = inputs.keyLengths, key >= all[row / lengths.query / layer.numHeads] { return false }
    return inputs.mask.map { element($0, row, key) } ?? true
  }

  /// The element of something that broadcasts to the scores (B..., Hq, Sq, Sk).
  private func element<U>(_ tensor: Tensor<U>, _ row: Int, _ key: Int) -> U {
    let full = inputs.query.shape.dropLast(2) + [layer.numHeads, lengths.query, lengths.key]
    var (rest, place, step) = (row * lengths.key + key, 0, 1)
    for (length, own) in zip(full.reversed(), tensor.shape.reversed()) {
      place += own == 1 ? 0 : rest % length * step
      rest /= length
      step *= own
    }
    return tensor.elements[place]
  }

  /// Values that are not seen are skipped, whatever they hold; those of a zero key are empty.
  private func weigh(_ values: [[Double]], _ probabilities: [Double]) -> [Double] {
    let width = (layer.parameters[.outWeight]?.shape[1] ?? 0) / layer.numHeads
    return (0..<width).map { column in
      zip(values, probabilities).reduce(0) { $1.1 == 0 || $1.0.isEmpty ? $0 : $0 + $1.0[column] * $1.1 }
    }
  }

  private func dot(_ a: [Double], _ b: [Double]) -> Double { zip(a, b).reduce(0) { $0 + $1.0 * $1.1 } }
}

extension Tensor {
  fileprivate var length: Int { shape[shape.count - 2] }
}

extension Tensor where Element: ComputeElement {
  /// The rows of a matrix among others of (B..., rows, width).
  fileprivate func rows(_ batch: Int) -> [[Double]] {
    let width = shape[shape.count - 1]
    return (0..<length).map { row in
      elements[(batch * length + row) * width..<(batch * length + row + 1) * width].map(Double.init)
    }
  }
}
