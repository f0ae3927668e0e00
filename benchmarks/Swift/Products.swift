import Foundation
import SwiftAttn

/// Matrix products as a layer makes them: y = x W^T + b, its gradients, and square ones.
struct ProductCase: Measurable {
  let name: String
  let rows: Int
  let columns: Int
  let depth: Int
  let transposesA: Bool
  let transposesB: Bool
  let reach: Double

  static let all = [
    ProductCase(
      name: "product f32 2048 2048 2048", rows: 2048, columns: 2048, depth: 2048, transposesA: false, transposesB: true,
      reach: 0.90),
    ProductCase(
      name: "product f32 512 512 512", rows: 512, columns: 512, depth: 512, transposesA: false, transposesB: true,
      reach: 0.80),
    ProductCase(
      name: "product f32 64 1536 512", rows: 64, columns: 1536, depth: 512, transposesA: false, transposesB: true,
      reach: 0.70),
    ProductCase(
      name: "product f32 1024 1536 512", rows: 1024, columns: 1536, depth: 512, transposesA: false, transposesB: true,
      reach: 0.85),
    ProductCase(
      name: "product f32 1024 512 1536, dX", rows: 1024, columns: 512, depth: 1536, transposesA: false,
      transposesB: false, reach: 0.82),
    ProductCase(
      name: "product f32 1536 512 1024, dW", rows: 1536, columns: 512, depth: 1024, transposesA: true,
      transposesB: false, reach: 0.82),
  ]

  let dtype = "f32"
  let isa: String? = nil
  let threads = 2

  var flops: Double { 2 * Double(rows) * Double(columns) * Double(depth) }

  /// Calls `body` with the product over fresh memory.
  func prepared(_ body: (MatrixProduct<Float>) throws -> Void) rethrows {
    let counts = [rows * depth, depth * columns, rows * columns]
    let memory = counts.map { UnsafeMutablePointer<Float>.allocate(capacity: $0) }
    defer { for pointer in memory { pointer.deallocate() } }
    for (pointer, count) in zip(memory, counts) {
      for i in 0..<count { pointer[i] = Float(i % 17) / 16 - 0.5 }
    }
    let a = StridedMatrix(
      base: memory[0], rows: transposesA ? depth : rows, columns: transposesA ? rows : depth,
      rowStride: transposesA ? rows : depth)
    let b = StridedMatrix(
      base: memory[1], rows: transposesB ? columns : depth, columns: transposesB ? depth : columns,
      rowStride: transposesB ? depth : columns)
    try body(
      MatrixProduct(
        a: transposesA ? a.transposed : a, b: transposesB ? b.transposed : b,
        c: StridedMatrix(base: memory[2], rows: rows, columns: columns, rowStride: columns)))
  }
}
