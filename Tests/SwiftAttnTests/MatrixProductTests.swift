import AttentionBlocks
import Testing

@testable import SwiftAttn

@Suite struct MatrixProductTests {
  /// Memory layouts of an operand: element (i, j) of a rows x columns matrix.
  enum Layout: CaseIterable {
    case rows, columns, gaps, reversedRows

    func matrix<T: ComputeElement>(_ memory: UnsafeMutablePointer<T>, _ rows: Int, _ columns: Int) -> StridedMatrix<T> {
      switch self {
      case .rows: StridedMatrix(base: memory, rows: rows, columns: columns, rowStride: columns)
      case .columns: StridedMatrix(base: memory, rows: rows, columns: columns, rowStride: 1, columnStride: rows)
      case .gaps: StridedMatrix(base: memory, rows: rows, columns: columns, rowStride: 3 * columns + 1, columnStride: 3)
      case .reversedRows:
        StridedMatrix(
          base: memory + max(rows - 1, 0) * columns, rows: rows, columns: columns, rowStride: -columns)
      }
    }

    func count(_ rows: Int, _ columns: Int) -> Int { self == .gaps ? rows * (3 * columns + 1) + 3 : rows * columns }
  }

  enum Start: CaseIterable { case zero, accumulator, columnBias, rowBias, matrix }

  /// Tiles, panels, strips, depth blocks and staged blocks, each just under, at and over.
  static let shapes = [
    (1, 1, 1), (1, 5, 0), (7, 17, 3), (8, 48, 128), (9, 64, 257), (25, 97, 260), (200, 20, 31), (130, 260, 10),
    (3, 200, 300), (193, 100, 5), (6, 32, 16), (20, 70, 40), (50, 34, 530),
  ]

  @Test("C = start + A B for every shape, start and layout of C, in both element types", arguments: shapes)
  func product(_ rows: Int, _ columns: Int, _ depth: Int) throws {
    for start in Start.allCases {
      for layout in Layout.allCases {
        try check(Float.self, (rows, columns, depth), start, (.rows, .columns, layout))
        try check(Double.self, (rows, columns, depth), start, (.columns, .rows, layout))
      }
    }
  }

  @Test("operands of every layout", arguments: Layout.allCases, Layout.allCases)
  func layouts(_ a: Layout, _ b: Layout) throws {
    for (rows, columns, depth) in Self.shapes { try check(Float.self, (rows, columns, depth), .zero, (a, b, .rows)) }
  }

  private func check<T: ComputeElement>(
    _: T.Type, _ shape: (rows: Int, columns: Int, depth: Int), _ kind: Start,
    _ layouts: (a: Layout, b: Layout, c: Layout)
  ) throws {
    let (rows, columns, depth) = shape
    var numbers = Tensors(seed: UInt64(rows * 7919 + columns * 31 + depth))
    func memory(_ count: Int) throws -> [T] { try numbers.next([count]).elements }
    var (a, b) = (try memory(layouts.a.count(rows, depth)), try memory(layouts.b.count(depth, columns)))
    let before = try memory(layouts.c.count(rows, columns))
    var (c, extra) = (before, try memory(rows * columns))
    let expected = a.withUnsafeMutableBufferPointer { a in
      b.withUnsafeMutableBufferPointer { b in
        c.withUnsafeMutableBufferPointer { c in
          extra.withUnsafeMutableBufferPointer { extra in
            let target = layouts.c.matrix(c.baseAddress!, rows, columns)
            let product = MatrixProduct(
              a: layouts.a.matrix(a.baseAddress!, rows, depth), b: layouts.b.matrix(b.baseAddress!, depth, columns),
              c: target, start: start(kind, target, extra.baseAddress!))
            let expected = reference(product)
            #expect(throws: Never.self) { try product.run(threads: 2) }
            return expected.map { ($0.offset, $0.value) }
          }
        }
      }
    }
    let bound = Double(T.ulpOfOne) * Double(depth + 2)
    let wrong = expected.first { abs(Double(c[$0.0]) - $0.1) > bound || c[$0.0].isNaN }
    #expect(wrong == nil, "\(shape) \(kind) \(layouts)")
    var untouched = before
    for (offset, _) in expected { untouched[offset] = c[offset] }
    #expect(c == untouched, "written outside C: \(shape) \(kind) \(layouts)")
  }

  private func start<T: ComputeElement>(
    _ kind: Start, _ c: StridedMatrix<T>, _ extra: UnsafeMutablePointer<T>
  ) -> StridedMatrix<T>? {
    var matrix = StridedMatrix(base: extra, rows: c.rows, columns: c.columns, rowStride: c.columns)
    switch kind {
    case .zero: return nil
    case .accumulator: return c
    case .columnBias: matrix.rowStride = 0
    case .rowBias: (matrix.rowStride, matrix.columnStride) = (1, 0)
    case .matrix: break
    }
    return matrix
  }

  /// C's elements as (offset in memory, value).
  private func reference<T: ComputeElement>(_ product: MatrixProduct<T>) -> [(offset: Int, value: Double)] {
    var result: [(offset: Int, value: Double)] = []
    // The lowest address of C: where its array begins.
    let origin = product.c.base + min(0, (product.rows - 1) * product.c.rowStride)
    for row in 0..<product.rows {
      for column in 0..<product.columns {
        var sum = product.start.map { Double($0.element(row, column).pointee) } ?? 0
        for p in 0..<product.depth {
          sum += Double(product.a.element(row, p).pointee) * Double(product.b.element(p, column).pointee)
        }
        result.append((product.c.element(row, column) - origin, sum))
      }
    }
    return result
  }

  /// Columns of B that lie along the depth are transposed on the way of the first rows, if the kernels can.
  @Test("where B's columns lie changes no bit", arguments: [1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 60])
  func placesOfColumns(_ rows: Int) throws {
    let (columns, depth) = (100, 550)
    var numbers = Tensors(seed: UInt64(rows))
    var a = try numbers.next([rows * depth]).elements as [Float]
    var b = try numbers.next([depth * columns]).elements as [Float]
    var transposed = [Float](repeating: 0, count: depth * columns)
    for p in 0..<depth { for column in 0..<columns { transposed[column * depth + p] = b[p * columns + column] } }
    for tier in tiers {
      try using(tier) {
        let fromRows = try product(&a, &b, (rows, columns, depth), strides: (columns, 1), threads: 2)
        let fromColumns = try product(&a, &transposed, (rows, columns, depth), strides: (1, depth), threads: 2)
        #expect(fromRows == fromColumns, "\(tier)")
      }
    }
  }

  /// A B with A's and C's rows contiguous and the given strides of B's rows and columns.
  private func product<T: ComputeElement>(
    _ a: inout [T], _ b: inout [T], _ shape: (rows: Int, columns: Int, depth: Int),
    strides: (row: Int, column: Int), threads: Int, packs: Bool = false
  ) throws -> [T] {
    let (rows, columns, depth) = shape
    var c = [T](repeating: 0, count: rows * columns)
    // One more, to see that packing ends where it says.
    let packedCount = PackedMatrix<T>.elements(rows: depth, columns: columns)
    var packed = [T](repeating: .nan, count: packedCount + 1)
    try a.withUnsafeMutableBufferPointer { a in
      try b.withUnsafeMutableBufferPointer { b in
        try c.withUnsafeMutableBufferPointer { c in
          try packed.withUnsafeMutableBufferPointer { packed in
            let b = StridedMatrix(
              base: b.baseAddress!, rows: depth, columns: columns, rowStride: strides.row,
              columnStride: strides.column)
            if packs { try PackedMatrix.pack(b, to: packed.baseAddress!, T.kernels(try Dispatch.current()).layout) }
            try MatrixProduct(
              a: StridedMatrix(base: a.baseAddress!, rows: rows, columns: depth, rowStride: depth), b: b,
              c: StridedMatrix(base: c.baseAddress!, rows: rows, columns: columns, rowStride: columns),
              packedB: packs ? PackedMatrix(base: packed.baseAddress!, rows: depth, columns: columns) : nil
            ).run(threads: threads)
          }
        }
      }
    }
    #expect(packed.last?.isNaN == true)
    return c
  }

  @Test("B packed beforehand changes no bit", arguments: tiers)
  func packedBeforehand(_ tier: InstructionSet) throws {
    try using(tier) {
      for shape in Self.shapes + [(1, 64, 600), (5, 256, 33), (1, 1000, 20), (300, 129, 700)] {
        try checkPacked(Float.self, shape)
        try checkPacked(Double.self, shape)
      }
    }
  }

  private func checkPacked<T: ComputeElement>(_: T.Type, _ shape: (rows: Int, columns: Int, depth: Int)) throws {
    var numbers = Tensors(seed: UInt64(shape.rows))
    var a = try numbers.next([shape.rows * shape.depth]).elements as [T]
    var b = try numbers.next([shape.depth * shape.columns]).elements as [T]
    for strides in [(shape.columns, 1), (1, shape.depth)] {
      let expected = try product(&a, &b, shape, strides: strides, threads: 2)
      let packed = try product(&a, &b, shape, strides: strides, threads: 2, packs: true)
      #expect(packed == expected, "\(shape) \(strides)")
    }
  }

  @Test("the number of threads changes no bit")
  func threads() throws {
    var numbers = Tensors(seed: 5)
    var a = try numbers.next([200 * 300]).elements as [Float]
    var b = try numbers.next([300 * 210]).elements as [Float]
    try takingTurns {
      var results: [[Float]] = []
      for threads in [1, 2, 3, 8] {
        let c = try product(&a, &b, (200, 210, 300), strides: (210, 1), threads: threads)
        results.append(c)
      }
      for result in results.dropFirst() { #expect(result == results[0]) }
    }
  }

  @Test("items cover C exactly once and share out evenly")
  func partition() {
    for (rows, columns) in [(1, 1), (2048, 2048), (512, 512), (1536, 64), (7, 1000), (5000, 3)] {
      for threads in [1, 2, 7] {
        let partition = MatrixPartition(rows: rows, columns: columns, panel: 48, widest: 768, threads: threads)
        var area = 0
        for index in 0..<partition.items.count {
          let item = partition.item(index)
          #expect(!item.rows.isEmpty && !item.columns.isEmpty)
          #expect(item.rows.upperBound <= rows && item.columns.upperBound <= columns)
          area += item.rows.count * item.columns.count
        }
        #expect(area == rows * columns)
      }
    }
    let large = MatrixPartition(rows: 2048, columns: 2048, panel: 48, widest: 768, threads: 3)
    #expect(large.columnsPerStrip >= 192, "packed too often")
  }

  @Test("each thread owns rows where they share out, else columns")
  func ownItems() {
    let byRows = MatrixPartition(rows: 1024, columns: 512, panel: 48, widest: 192, threads: 2)
    #expect(byRows.items.shared == 0)
    for index in 0..<byRows.items.count {
      #expect((byRows.item(index).rows.lowerBound < 512) == (index < byRows.items.count / 2))
    }
    let byColumns = MatrixPartition(rows: 512, columns: 1536, panel: 48, widest: 192, threads: 2)
    #expect(byColumns.items == WorkItems(owned: 8))
    for index in 0..<8 {
      #expect(byColumns.item(index).rows == 0..<512)
      #expect((byColumns.item(index).columns.lowerBound < 768) == (index < 4))
    }
    // 3 whole strips and a narrow one: the third and the last are anybody's.
    let narrow = MatrixPartition(rows: 16, columns: 528, panel: 48, widest: 192, threads: 2)
    #expect(narrow.columnsPerStrip == 144 && narrow.items == WorkItems(owned: 2, shared: 2))
  }

  @Test("threads that take items in turn are busy nine tenths of the time", arguments: [1, 2, 3, 4, 6, 8])
  func busy(_ threads: Int) {
    for (rows, columns, panel, widest) in [
      (512, 512, 48, 192), (512, 1536, 48, 192), (1536, 512, 48, 768), (1024, 512, 48, 192), (2048, 2048, 48, 192),
      (2048, 512, 48, 192), (512, 512, 64, 192), (512, 1536, 64, 192), (1024, 768, 64, 256),
    ] {
      let busy = busyShare(
        MatrixPartition(rows: rows, columns: columns, panel: panel, widest: widest, threads: threads), threads)
      #expect(busy >= 0.9, "\(rows) x \(columns): \(busy)")
    }
    let low = busyShare(MatrixPartition(rows: 16, columns: 512, panel: 48, widest: 192, threads: 2), 2)
    #expect(low >= 0.85, "fewer rows than the least of a block")
  }

  /// Of the threads' time, when each takes its next item as soon as it has finished one.
  private func busyShare(_ partition: MatrixPartition, _ threads: Int) -> Double {
    var ends = [Int](repeating: 0, count: threads)
    var counters = WorkQueue.Counters(repeating: 0)
    withUnsafeMutablePointer(to: &counters) { counters in
      let queue = WorkQueue(partition.items, participants: threads, counting: counters)
      while let first = ends.indices.min(by: { ends[$0] < ends[$1] }), let index = queue.claim(participant: first) {
        let item = partition.item(index)
        ends[first] += item.rows.count * item.columns.count
      }
    }
    return Double(partition.rows * partition.columns) / Double(threads * (ends.max() ?? 1))
  }

  @Test("no view, or one without axes, is a matrix of nothing")
  func nothing() {
    for view in [nil, fakeView([])] {
      let matrix = StridedMatrix(view, as: Float.self)
      #expect(matrix.rows == 0 && matrix.columns == 0)
    }
  }
}
