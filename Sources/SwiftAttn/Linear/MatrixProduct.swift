import AttentionBlocks

/// A matrix in memory that someone else owns. Strides are in elements; 0 repeats a row or a column.
package struct StridedMatrix<Element: ComputeElement>: @unchecked Sendable {
  package var base: UnsafeMutablePointer<Element>
  package var rows: Int
  package var columns: Int
  package var rowStride: Int
  package var columnStride: Int

  package init(
    base: UnsafeMutablePointer<Element>, rows: Int, columns: Int, rowStride: Int, columnStride: Int = 1
  ) {
    self.base = base
    self.rows = rows
    self.columns = columns
    self.rowStride = rowStride
    self.columnStride = columnStride
  }

  package var transposed: Self {
    StridedMatrix(base: base, rows: columns, columns: rows, rowStride: columnStride, columnStride: rowStride)
  }

  func element(_ row: Int, _ column: Int) -> UnsafeMutablePointer<Element> {
    base + (row * rowStride + column * columnStride)
  }

  func isSame(as other: Self) -> Bool {
    base == other.base && rowStride == other.rowStride && columnStride == other.columnStride
  }
}

/// C = start + A B: the projections of a layer and all their gradients, over matrices with any strides.
///
/// `start` may be C itself (the product is added), a bias whose rows repeat (stride 0), or nil for zero. With X (tokens
/// x in), W (out x in) and dY (tokens x out):
///
///     Y = X W^T + b     a: X,     b: W^T,  start: b
///     dX = dY W         a: dY,    b: W
///     dW += dY^T X      a: dY^T,  b: X,    start: dW
///
/// Transposes are strides. Memory that C shares with nothing but `start` (and then element by element) is the caller's
/// promise. Each element is summed in ascending order of the depth: its bits depend on the numbers and on the rounding
/// of the kernels, not on strides, packing or the number of threads.
///
/// How it is done. The register tiles of attention (`BlockProduct`) compute C's rows with the lanes along its columns.
/// B is packed, a strip of columns and a block of the depth at a time, in panels of 3 vectors whose rows are next to
/// each other. Where B's columns are its rows in memory (W^T), packing transposes: the product of the first rows does
/// that on the way, in registers if they are enough (`MultiplyTransposed.swift`), so that a decoding step, which has no
/// other rows, packs nothing. A is read where it is, one scalar at a time, if its rows lie along the depth, as those of
/// activations and weights do; else (dY^T) a block is copied, because every step of the depth would touch another page.
///
///     for each item (rows of C, strip of its columns):                       `WorkQueue`
///         for each block of the depth, up to 512:
///             for each 48 of the rows, for each panel of the strip:
///                 pack B[512][panel]                                         with the first 48 rows only
///                 C[48][panel] += A[48][512] B[512][panel]                   8x3 tiles
///
/// Bytes (f32): a packed strip of 4 panels is 393 KB and 48 rows of A 98 KB, together half of the second level. A panel
/// of B, 512 * 48 * 4 = 98 KB, passes once for every 8 rows, in order: 192 bytes for 24 multiply-adds of vectors, a
/// quarter of what the second level gives in that time. C is read and written once every 512 of the depth; the tile
/// prefetches that of the next. On one thread of a Zen 4, (1024 x 512) (512 x 1536): 82 % of the peak with A copied and
/// blocks of 256, 92 % so. Tried and dropped: prefetching what is copied next (0 to 0.5 %), copying A where its rows
/// are a multiple of 4 KiB apart (-8 %). `MatrixBlocking` has the sizes. Where B has been packed beforehand
/// (`PackedMatrix`), its panels are read from there.
///
/// The product may as well be computed as C^T = B^T A^T. That packs A instead of B and leaves lanes along C's rows; the
/// cheaper of the two is done. So a projection of as many tokens as fill vectors transposes them and not its weights.
package struct MatrixProduct<Element: ComputeElement>: Sendable {
  package var a: StridedMatrix<Element>
  package var b: StridedMatrix<Element>
  package var c: StridedMatrix<Element>
  package var start: StridedMatrix<Element>?
  /// B, where it has been packed beforehand.
  package var packedB: PackedMatrix<Element>?

  package init(
    a: StridedMatrix<Element>, b: StridedMatrix<Element>, c: StridedMatrix<Element>,
    start: StridedMatrix<Element>? = nil, packedB: PackedMatrix<Element>? = nil
  ) {
    self.a = a
    self.b = b
    self.c = c
    self.start = start
    self.packedB = packedB
  }

  var rows: Int { c.rows }
  var columns: Int { c.columns }
  var depth: Int { a.columns }

  /// The same product with rows and columns exchanged.
  var transposed: Self {
    MatrixProduct(a: b.transposed, b: a.transposed, c: c.transposed, start: start?.transposed)
  }

  /// With the lanes along the dimension for which tiles, packing and writing take the fewest cycles.
  private func oriented(for kernels: ProductKernels<Element>) -> Self {
    estimatedCycles(kernels) <= transposed.estimatedCycles(kernels) ? self : transposed
  }

  /// A model of one core with two FMA units: lanes are padded to whole vectors, a copied element costs 1/8 of a cycle
  /// and a transposed one 3/8 (six cycles for a vector of 16), or, on the way of the first rows, as much as 3.5 rows
  /// (about 3 where B is near; with 1.5, layers of 64 to 128 tokens lost 2 to 8 %).
  private func estimatedCycles(_ kernels: ProductKernels<Element>) -> Double {
    let vectors = Double(Element.vectors(columns))
    let written = Double(rows) * Double(columns) * (c.columnStride == 1 ? 0 : 0.375)
    if packedB != nil { return Double(rows) * Double(depth) * vectors / 2 + written }
    if transposing(kernels) != nil { return (Double(rows) + 3.5) * Double(depth) * vectors / 2 + written }
    let packed = Double(depth) * Double(columns) * (b.columnStride == 1 ? 0.125 : 0.375)
    return Double(rows) * Double(depth) * vectors / 2 + packed + written
  }

  /// The kernel that transposes B on the way of the first rows, where B's columns lie along the depth as A's rows do.
  func transposing(_ kernels: ProductKernels<Element>) -> ProductKernels<Element>.MultiplyTransposed? {
    b.rowStride == 1 && b.columnStride != 1 && a.columnStride == 1 ? kernels.multiplyTransposed : nil
  }

  /// Computes C on at most `threads` threads.
  package func run(threads: Int) throws(AttentionError) { try run(CallSettings(threads: threads)) }

  @inline(never)
  func run(_ call: CallSettings) throws(AttentionError) {
    guard rows > 0, columns > 0 else { return }
    let kernels = Element.kernels(call.instructionSet)
    let product = oriented(for: kernels.products)
    let participants = ThreadPool.participants(cycles: product.estimatedCycles(kernels.products), upTo: call.threads)
    let blocking = MatrixBlocking(product)
    let partition = MatrixPartition(
      rows: product.rows, columns: product.columns,
      panel: StripPanels<Element>.columns(isPacked: product.packedB != nil), widest: blocking.widest,
      threads: participants)
    var pass = MatrixPass(product: product, blocking: blocking, partition: partition, kernels: kernels)
    try pass.run(partition.items, call.interruptCheck, participants: min(participants, partition.items.count))
  }
}
