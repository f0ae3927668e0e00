import AttentionBlocks

/// One matrix product, item after item (`MatrixProduct` explains how).
struct MatrixPass<Element: ComputeElement>: ParallelPass {
  let product: MatrixProduct<Element>
  let blocking: MatrixBlocking
  let partition: MatrixPartition
  let kernels: KernelTable<Element>

  func run(_ control: borrowing CallControl, participant: Int) {
    let layout = MatrixWorkspace<Element>.Layout(self)
    guard var workspace = Workspace(bytes: layout.bytes, participant: participant) else { return }
    let state = MatrixWorkspace<Element>(layout, &workspace)
    while let item = control.claim(participant: participant) {
      compute(item: partition.item(item), state, control, participant: participant)
    }
  }

  private func compute(
    item: MatrixPartition.Item, _ state: MatrixWorkspace<Element>, _ control: borrowing CallControl, participant: Int
  ) {
    let writesDirectly = product.c.columnStride == 1 && item.columns.count % Element.lanes == 0
    let step = writesDirectly ? item.rows.count : MatrixWorkspace<Element>.stagedRows
    let isWhole = product.depth <= blocking.depth
    for first in stride(from: item.rows.lowerBound, to: item.rows.upperBound, by: step) {
      let rows = first..<min(first + step, item.rows.upperBound)
      let block = MatrixPartition.Item(rows: rows, columns: item.columns)
      let target =
        writesDirectly
        ? LaneMatrix(base: product.c.element(rows.lowerBound, item.columns.lowerBound), stride: product.c.rowStride)
        : state.staging
      var start = begin(block, in: target, writesDirectly: writesDirectly)
      for first in stride(from: 0, to: max(product.depth, 1), by: blocking.depth) {
        let depth = first..<min(first + blocking.depth, product.depth)
        let packs = !isWhole || rows.lowerBound == item.rows.lowerBound
        add(block, depth: depth, packing: packs, state, to: target, start)
        start = .accumulator
        if control.shouldStop(participant: participant) { return }
      }
      if !writesDirectly { writeOut(block, state) }
    }
  }

  /// What the sums begin with; writes it to the target where no kernel can read it from where it is.
  private func begin(
    _ block: MatrixPartition.Item, in target: LaneMatrix<Element>, writesDirectly: Bool
  ) -> BlockProduct<Element>.Start {
    guard let start = product.start else { return .zero }
    if writesDirectly && start.isSame(as: product.c) { return .accumulator }
    if writesDirectly && start.columnStride == 1 && start.rowStride == 0 {
      return .row(start.element(0, block.columns.lowerBound))
    }
    for row in 0..<block.rows.count {
      let source = start.element(block.rows.lowerBound + row, block.columns.lowerBound)
      let destination = target.row(row)
      switch start.columnStride {
      case 0: destination.update(repeating: source.pointee, count: block.columns.count)
      case 1: destination.copy(from: source, count: block.columns.count)
      default:
        for column in 0..<block.columns.count { destination[column] = source[column * start.columnStride] }
      }
      if !writesDirectly { clearTail(destination, from: block.columns.count) }
    }
    return .accumulator
  }

  /// Lanes past the last column hold numbers that nobody reads; stale ones might be slow denormals.
  private func clearTail(_ row: UnsafeMutablePointer<Element>, from column: Int) {
    let end = Element.padded(column)
    for lane in column..<end { row[lane] = 0 }
  }

  /// target (+)= A[rows][depth] B[depth][columns], of which B has been packed before unless it is `packing`.
  private func add(
    _ block: MatrixPartition.Item, depth: Range<Int>, packing: Bool, _ state: MatrixWorkspace<Element>,
    to target: LaneMatrix<Element>, _ start: BlockProduct<Element>.Start
  ) {
    for first in stride(from: block.rows.lowerBound, to: block.rows.upperBound, by: blocking.rows) {
      let rows = first..<min(first + blocking.rows, block.rows.upperBound)
      var a = StridedMatrix(
        base: product.a.element(first, depth.lowerBound), rows: rows.count, columns: depth.count,
        rowStride: product.a.rowStride, columnStride: product.a.columnStride)
      if blocking.packsA { a = packed(a, state) }
      let c = target.row(first - block.rows.lowerBound)
      for panel in StripPanels<Element>(columns: block.columns.count, isPacked: product.packedB != nil) {
        let lane = panel.firstVector * Element.lanes
        let b =
          product.packedB?.panel(panel, column: block.columns.lowerBound, row: depth.lowerBound) ?? state.panel(panel)
        var part = BlockProduct(
          a: a.base, rowStride: a.rowStride, depthStride: a.columnStride, rows: rows.count, depth: depth.count,
          vectors: panel.vectors, b: b.base, bStride: b.stride, c: c + lane, cStride: target.stride,
          start: start.lanes(from: lane))
        if packing && product.packedB == nil && first == block.rows.lowerBound {
          pack(panel, for: &part, depth, block.columns, state)
        }
        kernels.products.multiply(part)
      }
    }
  }

  /// A copy of a block of A, along whichever of its dimensions is contiguous.
  private func packed(_ a: StridedMatrix<Element>, _ state: MatrixWorkspace<Element>) -> StridedMatrix<Element> {
    guard a.columnStride == 1 || a.rowStride != 1 else { return packed(a.transposed, state).transposed }
    let stride = Element.padded(a.columns)
    copying(state).copyRows(of: a, to: LaneMatrix(base: state.packedA, stride: stride))
    return StridedMatrix(base: state.packedA, rows: a.rows, columns: a.columns, rowStride: stride)
  }

  /// Packs the panel of B that `part` is multiplied by. If it is to be transposed, and the kernels can, that is done on
  /// the way by the product of the first rows, which `part` then has no more.
  private func pack(
    _ panel: StripPanels<Element>.Panel, for part: inout BlockProduct<Element>, _ depth: Range<Int>,
    _ columns: Range<Int>, _ state: MatrixWorkspace<Element>
  ) {
    let first = columns.lowerBound + panel.firstVector * Element.lanes
    let count = min(panel.vectors * Element.lanes, columns.upperBound - first)
    let (b, target) = (product.b.element(depth.lowerBound, first), state.panel(panel))
    let isWhole = count == panel.vectors * Element.lanes
    let multiplyTransposed = isWhole ? product.transposing(kernels.products) : nil
    // How much of the depth that kernel takes: whole vectors.
    let transposed = multiplyTransposed == nil ? 0 : part.depth / Element.lanes * Element.lanes
    var rest = StridedMatrix(
      base: b, rows: part.depth, columns: count, rowStride: product.b.rowStride, columnStride: product.b.columnStride)
    rest.base += transposed * rest.rowStride
    rest.rows -= transposed
    if rest.rows > 0 {
      copying(state).copy(rest, to: LaneMatrix(base: target.row(transposed), stride: target.stride))
    }
    guard let multiplyTransposed, transposed > 0 else { return }
    multiplyFirstRows(of: &part, by: b, depth: transposed) { multiplyTransposed($0, target) }
  }

  /// Multiplies the rows that the kernel takes by `depth` elements of B's columns and by what has been packed of the
  /// others.
  private func multiplyFirstRows(
    of part: inout BlockProduct<Element>, by b: UnsafePointer<Element>, depth: Int,
    _ multiplyTransposed: (BlockProduct<Element>) -> Int
  ) {
    var first = part
    first.b = b
    first.bStride = product.b.columnStride
    first.depth = depth
    let rows = multiplyTransposed(first)
    if depth < part.depth {
      var rest = part
      rest.rows = rows
      rest.depth -= depth
      rest.a += depth * rest.aDepthStride
      rest.b += depth * rest.bStride
      rest.start = .accumulator
      kernels.products.multiply(rest)
    }
    part = part.rows(from: rows)
    part.rows -= rows
  }

  private func copying(_ state: MatrixWorkspace<Element>) -> LaneCopy<Element> {
    LaneCopy(layout: kernels.layout, offsets: state.offsets)
  }

  private func writeOut(_ block: MatrixPartition.Item, _ state: MatrixWorkspace<Element>) {
    let c = product.c
    let base = c.element(block.rows.lowerBound, block.columns.lowerBound)
    if c.columnStride == 1 {
      for row in 0..<block.rows.count {
        (base + row * c.rowStride).copy(from: state.staging.row(row), count: block.columns.count)
      }
    } else {
      for column in 0..<block.columns.count { state.offsets[column] = column * c.columnStride }
      kernels.layout.scatter(
        state.staging,
        ScatteredRows(
          base: base, offsets: state.offsets, stride: c.rowStride, rows: block.columns.count,
          columns: block.rows.count),
        state.ones)
    }
  }
}

/// A thread's memory for a matrix product.
struct MatrixWorkspace<Element: ComputeElement> {
  /// Rows of C that are staged at a time where it is not written directly.
  static var stagedRows: Int { 192 }

  /// How large its parts are.
  struct Layout {
    let lanes: Int
    /// Of B's block, nothing where B has been packed beforehand.
    let depth: Int
    let offsets: Int
    let elementsOfA: Int
    let stagedRows: Int

    init(_ pass: MatrixPass<Element>) {
      let (columns, blocking) = (pass.partition.columnsPerStrip, pass.blocking)
      lanes = Element.padded(columns)
      depth = pass.product.packedB == nil ? blocking.depth : 0
      offsets = max(lanes, blocking.rows, blocking.depth, MatrixWorkspace.stagedRows)
      elementsOfA = blocking.packsA ? (blocking.rows + Element.lanes) * (blocking.depth + Element.lanes) : 0
      let writesDirectly = pass.product.c.columnStride == 1 && pass.partition.columns % Element.lanes == 0
      stagedRows = writesDirectly ? 0 : MatrixWorkspace.stagedRows
    }

    var bytes: Int {
      Workspace.bytes(offsets, of: Int.self) + Workspace.bytes(elementsOfA, of: Element.self)
        + Workspace.bytes(depth * lanes, of: Element.self) + Workspace.bytes(stagedRows * lanes, of: Element.self)
        + Workspace.bytes(lanes, of: Element.self)
    }
  }

  let offsets: UnsafeMutablePointer<Int>
  let packedA: UnsafeMutablePointer<Element>
  /// B's block, panel after panel of [depth][lane].
  let packedB: UnsafeMutablePointer<Element>
  /// C's block: [row][lane].
  let staging: LaneMatrix<Element>
  /// Factors of a transposition that scales nothing.
  let ones: UnsafeMutablePointer<Element>
  private let depth: Int

  init(_ layout: Layout, _ workspace: inout Workspace) {
    depth = layout.depth
    offsets = workspace.take(layout.offsets, of: Int.self)
    packedA = workspace.take(layout.elementsOfA, of: Element.self)
    packedB = workspace.take(layout.depth * layout.lanes, of: Element.self)
    staging = workspace.matrix(rows: layout.stagedRows, stride: layout.lanes)
    ones = workspace.take(layout.lanes, of: Element.self)
    ones.update(repeating: 1, count: layout.lanes)
  }

  func panel(_ panel: StripPanels<Element>.Panel) -> LaneMatrix<Element> {
    LaneMatrix(
      base: packedB + panel.firstVector * Element.lanes * depth, stride: panel.vectors * Element.lanes)
  }
}
