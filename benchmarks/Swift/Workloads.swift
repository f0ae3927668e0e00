import SwiftAttn

/// What a case works on, and the call that is timed.
protocol Workload {
  func run() throws
}

/// The operator, or the operator and its gradients.
struct AttentionWorkload<Element: ComputeElement>: Workload {
  private let query: Tensor<Element>
  private let key: Tensor<Element>
  private let value: Tensor<Element>
  private let attention: Attention<Element>
  private let trains: Bool

  init(_ row: Case) throws {
    query = try .random([row.batches, row.headsQ, row.seqLenQ, row.headDim])
    key = try .random([row.batches, row.headsKV, row.seqLenK, row.headDim])
    value = try .random([row.batches, row.headsKV, row.seqLenK, row.headDim])
    trains = row.trains
    var attention = Attention<Element>(causal: row.causal ? .topLeft : .none)
    switch row.mask {
    case "bias": attention.bias = try .random([1, row.headsQ, row.seqLenQ, row.seqLenK])
    case "pad": attention.mask = try Tensor((0..<row.seqLenK).map { $0 < row.liveKeys }, shape: [row.seqLenK])
    case "lengths": attention.keyLengths = Array(repeating: row.liveKeys, count: row.batches)
    default: break
    }
    self.attention = attention
  }

  func run() throws {
    let output = try attention.forward(query: query, key: key, value: value)
    if trains { _ = try attention.backward(query, query: query, key: key, value: value, output: output) }
  }
}

/// A layer in self-attention, or the same with the gradients of its input and all parameters.
struct LayerWorkload<Element: ComputeElement>: Workload {
  private let layer: MultiHeadAttention<Element>
  private let x: Tensor<Element>
  private let trains: Bool

  init(_ row: Case) throws {
    var layer = try MultiHeadAttention<Element>(embedDim: row.embedDim, numHeads: row.headsQ)
    if row.isFrozen { try layer.packWeights() }
    self.layer = layer
    x = try .random([row.batches, row.seqLenQ, row.embedDim])
    trains = row.trains
  }

  func run() throws {
    if trains {
      _ = try layer.backward(x, of: layer.forward(.init(query: x)))
    } else {
      _ = try layer(x)
    }
  }
}

extension Tensor where Element: ComputeElement {
  /// Numbers from -1 to 1.
  fileprivate static func random(_ shape: [Int]) throws -> Tensor {
    var generator = SystemRandomNumberGenerator()
    let elements = (0..<shape.reduce(1, *)).map { _ in Element(Double.random(in: -1...1, using: &generator)) }
    return try Tensor(elements, shape: shape)
  }
}
