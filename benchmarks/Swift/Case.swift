import Foundation
import SwiftAttn

/// One row of cases.json; benchmarks/cases.py says what the fields mean.
struct Case: Decodable {
  let name: String
  let op: String
  let dtype: String
  let B: Int
  let H: Int
  let Hkv: Int
  let Sq: Int
  let Sk: Int
  let D: Int
  let causal: Bool
  let mask: String
  let isa: String?
  let threads: Int
  let reach: Double

  private struct Document: Decodable {
    struct Group: Decodable { let rows: [Case] }
    let throughput: Group
  }

  static func load(from file: URL) throws -> [Case] {
    try JSONDecoder().decode(Document.self, from: Data(contentsOf: file)).throughput.rows
  }

  var liveKeys: Int { mask == "pad" || mask == "lengths" ? Sk * 3 / 4 : Sk }
  var trains: Bool { op == "train" }

  /// 4 D for each pair of a query and a key that it may attend to, 3.5 times that with the backward pass.
  var flops: Double {
    let pairs = causal ? (0..<Sq).reduce(0) { $0 + min($1 + 1, Sk) } : Sq * liveKeys
    return 4 * Double(B * H) * Double(pairs) * Double(D) * (trains ? 3.5 : 1)
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
    query = try draw([row.B, row.H, row.Sq, row.D])
    key = try draw([row.B, row.Hkv, row.Sk, row.D])
    value = try draw([row.B, row.Hkv, row.Sk, row.D])
    trains = row.trains
    var attention = Attention<Element>(causal: row.causal ? .topLeft : .none)
    switch row.mask {
    case "bias": attention.bias = try draw([1, row.H, row.Sq, row.Sk])
    case "pad": attention.mask = try Tensor((0..<row.Sk).map { $0 < row.liveKeys }, shape: [row.Sk])
    case "lengths": attention.keyLengths = Array(repeating: row.liveKeys, count: row.B)
    default: break
    }
    self.attention = attention
  }

  func run() throws {
    let output = try attention.forward(query: query, key: key, value: value)
    if trains { _ = try attention.backward(query, query: query, key: key, value: value, output: output) }
  }
}
