import SwiftAttn

/// A matrix product as a layer makes it: y = x W^T + b, or one of its gradients.
struct ProductCase: Measurable {
  let name: String
  let dtype: String
  /// Of the result.
  let rows: Int
  let columns: Int
  let depth: Int
  let transposesA: Bool
  let transposesB: Bool
  let isa: String?
  let threads: Int
  let reach: Double

  enum CodingKeys: String, CodingKey {
    case name, dtype, isa, threads, reach
    case rows = "M"
    case columns = "N"
    case depth = "K"
    case transposesA = "transposes_a"
    case transposesB = "transposes_b"
  }

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
