import AttentionBlocks
import Testing

@testable import SwiftAttn

@Suite struct LayoutTests {
  @Test("rows go into lanes and come back, at every size and stride", arguments: tiers)
  func roundTrip(_ tier: InstructionSet) {
    for rows in [1, 2, 3, 7, 8, 15, 16, 17, 18, 48] {
      for columns in [1, 3, 8, 16, 21, 33] {
        for step in [1, 2] {
          roundTrip(tier, Float.self, rows, columns, step)
          roundTrip(tier, Double.self, rows, columns, step)
        }
      }
    }
  }

  private func roundTrip<T: ComputeElement>(
    _ tier: InstructionSet, _: T.Type, _ rows: Int, _ columns: Int, _ step: Int
  ) {
    let lanes = T.lanes
    let stride = (rows + lanes - 1) / lanes * lanes
    let pitch = columns * step + 5
    var source = [T](unsafeUninitializedCapacity: rows * pitch) { buffer, count in
      for i in 0..<rows * pitch { buffer.initializeElement(at: i, to: T(i)) }
      count = rows * pitch
    }
    let original = source
    // Rows in reverse order, as irregular offsets.
    let offsets = (0..<rows).map { (rows - 1 - $0) * pitch }
    var matrix = [T](repeating: -1, count: (columns + lanes) * stride)
    var back = [T](repeating: -7, count: rows * pitch)
    let factors = [T](repeating: 0.5, count: stride)
    offsets.withUnsafeBufferPointer { offsets in
      withMatrix(&matrix, stride: stride) { matrix in
        source.withUnsafeMutableBufferPointer { source in
          T.kernels(tier).layout.gather(
            ScatteredRows(
              base: source.baseAddress!, offsets: offsets.baseAddress!, stride: step, rows: rows, columns: columns),
            matrix, 2)
        }
        back.withUnsafeMutableBufferPointer { back in
          T.kernels(tier).layout.scatter(
            matrix,
            ScatteredRows(
              base: back.baseAddress!, offsets: offsets.baseAddress!, stride: step, rows: rows, columns: columns),
            factors)
        }
      }
    }
    for row in 0..<rows {
      for column in 0..<columns {
        #expect(matrix[column * stride + row] == 2 * original[offsets[row] + column * step])
      }
    }
    for lane in rows..<stride { #expect(matrix[lane] == 0, "lanes past the last row must be zero") }
    for i in back.indices {
      let column = i % pitch
      let isElement = column % step == 0 && column / step < columns
      #expect(back[i] == (isElement ? original[i] : -7))
    }
  }

  @Test("packed rows are scaled and padded with zeros", arguments: tiers)
  func pack(_ tier: InstructionSet) {
    for columns in [1, 8, 16, 19, 32] {
      for step in [1, 3] {
        let padded = (columns + Float.lanes - 1) / Float.lanes * Float.lanes
        var source = (0..<2 * columns * step).map { Float($0 + 1) }
        var packed = [Float](repeating: .nan, count: 2 * padded)
        let offsets = [0, columns * step]
        source.withUnsafeMutableBufferPointer { source in
          withMatrix(&packed, stride: padded) { matrix in
            Float.kernels(tier).layout.pack(
              ScatteredRows(base: source.baseAddress!, offsets: offsets, stride: step, rows: 2, columns: columns),
              matrix, 3)
          }
        }
        for row in 0..<2 {
          for column in 0..<padded {
            let expected = column < columns ? 3 * Float(row * columns * step + column * step + 1) : 0
            #expect(packed[row * padded + column] == expected)
          }
        }
      }
    }
  }

  @Test("bias is added transposed: whole tiles and parts, apart, interleaved or one row for all", arguments: tiers)
  func bias(_ tier: InstructionSet) {
    for keys in [Float.lanes, 11, 2 * Float.lanes + 1] {
      for stride in [1, 2] {
        for isShared in [false, true] {
          addBias(tier, keys: keys, stride: stride, isShared: isShared, Float.self)
          addBias(tier, keys: keys, stride: stride, isShared: isShared, Double.self)
        }
      }
    }
  }

  private func addBias<T: ComputeElement>(
    _ tier: InstructionSet, keys: Int, stride: Int, isShared: Bool, _: T.Type
  ) {
    let rows = 2 * T.lanes + 3
    let matrixStride = 3 * T.lanes
    let firstKey = 2
    var numbers = Numbers(seed: 9)
    var bias: [T] = numbers.array(rows * keys * stride)
    let before: [T] = numbers.array((firstKey + keys + 1) * matrixStride)
    var scores = before
    let offsets = (0..<rows).map { isShared ? keys : $0 * keys * stride }
    withMatrix(&scores, stride: matrixStride) { matrix in
      bias.withUnsafeMutableBufferPointer {
        T.kernels(tier).scores.addBias(
          ScatteredRows(base: $0.baseAddress!, offsets: offsets, stride: stride, rows: rows, columns: keys),
          PanelScores(
            scores: matrix, firstKey: firstKey, endKey: firstKey + keys, vectors: 3, visibility: nil,
            visibilityStride: 0))
      }
    }
    for key in 0..<firstKey + keys + 1 {
      for row in 0..<rows {
        let place = key * matrixStride + row
        let column = key - firstKey
        let expected =
          0..<keys ~= column ? before[place] + bias[offsets[row] + column * stride] * T.log2e : before[place]
        #expect(scores[place] == expected, "\(T.self), key \(key), row \(row), \(keys) keys, stride \(stride)")
      }
    }
  }

  @Test("bias gradients sum what shares memory", arguments: tiers)
  func biasGradient(_ tier: InstructionSet) {
    let lanes = Double.lanes
    let (rows, keys) = (lanes + 3, 11)
    let stride = 2 * lanes
    var numbers = Numbers(seed: 9)
    var scores: [Double] = numbers.array(keys * stride)
    let shared = [Int](repeating: 0, count: rows)
    var columnSums = [Double](repeating: 0, count: keys)
    var total = [0.0]
    let kernels = Double.kernels(tier).scores
    withMatrix(&scores, stride: stride) { matrix in
      let panel = PanelScores(
        scores: matrix, firstKey: 0, endKey: keys, vectors: 2, visibility: nil, visibilityStride: 0)
      columnSums.withUnsafeMutableBufferPointer {
        kernels.addBiasGradient(
          ScatteredRows(base: $0.baseAddress!, offsets: shared, stride: 1, rows: rows, columns: keys), panel)
      }
      total.withUnsafeMutableBufferPointer {
        kernels.addBiasGradient(
          ScatteredRows(base: $0.baseAddress!, offsets: shared, stride: 0, rows: rows, columns: keys), panel)
      }
    }
    for key in 0..<keys {
      let columnSum = (0..<rows).reduce(0.0) { $0 + scores[key * stride + $1] }
      #expect(abs(columnSums[key] - columnSum) < 1e-12)
    }
    #expect(abs(total[0] - columnSums.reduce(0, +)) < 1e-11)
  }
}
