import Foundation
import SwiftAttn

/// What is known of a case besides how to run it.
protocol Measurable: Decodable {
  var name: String { get }
  var flops: Double { get }
  var dtype: String { get }
  /// Nil: the fastest.
  var isa: String? { get }
  var threads: Int { get }
  /// Share of the peak to reach.
  var reach: Double { get }
}

/// The groups of cases.json that are measured here.
struct Cases: Decodable {
  struct Group<Row: Measurable>: Decodable { let rows: [Row] }
  let throughput: Group<Case>
  let products: Group<ProductCase>

  init(from file: URL) throws {
    self = try JSONDecoder().decode(Self.self, from: Data(contentsOf: file))
  }
}

/// One row of the throughput; benchmarks/cases.py says what the fields mean.
struct Case: Measurable {
  let name: String
  let op: String
  let dtype: String
  let batches: Int
  let headsQ: Int
  let headsKV: Int
  let seqLenQ: Int
  let seqLenK: Int
  let headDim: Int
  let causal: Bool
  let mask: String
  let isa: String?
  let threads: Int
  let reach: Double

  enum CodingKeys: String, CodingKey {
    case name, op, dtype, causal, mask, isa, threads, reach
    case batches = "B"
    case headsQ = "H"
    case headsKV = "Hkv"
    case seqLenQ = "Sq"
    case seqLenK = "Sk"
    case headDim = "D"
  }

  var liveKeys: Int { mask == "pad" || mask == "lengths" ? seqLenK * 3 / 4 : seqLenK }
  var trains: Bool { op == "train" }

  /// 4 D for each pair of a query and a key that it may attend to, 3.5 times that with the backward pass.
  var flops: Double {
    let pairs = causal ? (0..<seqLenQ).reduce(0) { $0 + min($1 + 1, seqLenK) } : seqLenQ * liveKeys
    return 4 * Double(batches * headsQ) * Double(pairs) * Double(headDim) * (trains ? 3.5 : 1)
  }
}

/// The tensors of a case and the call that is timed.
struct Workload<Element: ComputeElement> {
  private let query: Tensor<Element>
  private let key: Tensor<Element>
  private let value: Tensor<Element>
  private let attention: Attention<Element>
  private let trains: Bool

  init(_ row: Case) throws {
    var generator = SystemRandomNumberGenerator()
    func draw(_ shape: [Int]) throws -> Tensor<Element> {
      let elements = (0..<shape.reduce(1, *)).map { _ in Element(Double.random(in: -1...1, using: &generator)) }
      return try Tensor(elements, shape: shape)
    }
    query = try draw([row.batches, row.headsQ, row.seqLenQ, row.headDim])
    key = try draw([row.batches, row.headsKV, row.seqLenK, row.headDim])
    value = try draw([row.batches, row.headsKV, row.seqLenK, row.headDim])
    trains = row.trains
    var attention = Attention<Element>(causal: row.causal ? .topLeft : .none)
    switch row.mask {
    case "bias": attention.bias = try draw([1, row.headsQ, row.seqLenQ, row.seqLenK])
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
