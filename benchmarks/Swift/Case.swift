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
  var isLayer: Bool { op.hasPrefix("layer") }
  var isFrozen: Bool { op.hasSuffix("frozen") }
  var trains: Bool { op.hasSuffix("train") }
  var embedDim: Int { headsQ * headDim }

  /// Those of the attention, and 8 B S E^2 for a layer's four projections, 3 times that with their gradients.
  var flops: Double {
    let projections = 8 * Double(batches * seqLenQ) * Double(embedDim * embedDim) * (trains ? 3 : 1)
    return attentionFlops + (isLayer ? projections : 0)
  }

  /// 4 D for each pair of a query and a key that it may attend to, 3.5 times that with the backward pass.
  private var attentionFlops: Double {
    let pairs = causal ? (0..<seqLenQ).reduce(0) { $0 + min($1 + 1, seqLenK) } : seqLenQ * liveKeys
    return 4 * Double(batches * headsQ) * Double(pairs) * Double(headDim) * (trains ? 3.5 : 1)
  }

  /// With inputs of its own.
  func workload() throws -> any Workload {
    dtype == "f64" ? try workload(Double.self) : try workload(Float.self)
  }

  private func workload<Element: ComputeElement>(_: Element.Type) throws -> any Workload {
    if isLayer { return try LayerWorkload<Element>(self) }
    return try AttentionWorkload<Element>(self)
  }
}
