import AttentionBlocks

/// Backward's share of a workspace: O(head dim x rows), whatever the length.
struct BackwardWorkspace<Element: ComputeElement> {
  var rows: BlockRows<Element>
  let offsets: UnsafeMutablePointer<Int>
  /// Q^T, scaled as in forward, and dO^T: [d][lane].
  let queries: LaneMatrix<Element>
  let outGradients: LaneMatrix<Element>
  /// dQ^T: [d][lane]; holds O^T while delta is computed.
  let queryGradient: LaneMatrix<Element>
  /// S, which becomes P, and dP, which becomes dS: [key][lane].
  let scores: LaneMatrix<Element>
  let gradients: LaneMatrix<Element>
  /// scale * Q and dO as rows: [row][d], padded to whole vectors.
  let queryRows: LaneMatrix<Element>
  let outGradientRows: LaneMatrix<Element>
  /// One block of dK and dV for outputs that the kernels cannot add to in place: [key][d], padded to whole vectors.
  let staging: LaneMatrix<Element>
  let keyOffsets: UnsafeMutablePointer<Int>
  let logSumExp: UnsafeMutablePointer<Element>
  let minusDelta: UnsafeMutablePointer<Element>
  let factors: UnsafeMutablePointer<Element>

  static func bytes(_ geometry: Geometry, _ capacity: Int) -> Int {
    let dims = Dims(geometry)
    let matrices =
      dims.head * capacity + dims.value * capacity + dims.larger * capacity + 2 * BlockSize.keys * capacity
      + capacity * dims.head + capacity * dims.value + BlockSize.keys * dims.larger
    return BlockRows<Element>.bytes(capacity: capacity) + Workspace.bytes(matrices, of: Element.self)
      + 8 * 64 + 3 * Workspace.bytes(capacity, of: Element.self)
      + Workspace.bytes(capacity, of: Int.self) + Workspace.bytes(BlockSize.keys, of: Int.self)
  }

  init(_ geometry: Geometry, _ capacity: Int, _ workspace: inout Workspace) {
    let dims = Dims(geometry)
    rows = BlockRows(capacity: capacity, &workspace)
    offsets = workspace.take(capacity, of: Int.self)
    queries = workspace.matrix(rows: dims.head, stride: capacity)
    outGradients = workspace.matrix(rows: dims.value, stride: capacity)
    queryGradient = workspace.matrix(rows: dims.larger, stride: capacity)
    scores = workspace.matrix(rows: BlockSize.keys, stride: capacity)
    gradients = workspace.matrix(rows: BlockSize.keys, stride: capacity)
    queryRows = workspace.matrix(rows: capacity, stride: dims.head)
    outGradientRows = workspace.matrix(rows: capacity, stride: dims.value)
    staging = workspace.matrix(rows: BlockSize.keys, stride: dims.larger)
    keyOffsets = workspace.take(BlockSize.keys, of: Int.self)
    logSumExp = workspace.take(capacity, of: Element.self)
    minusDelta = workspace.take(capacity, of: Element.self)
    factors = workspace.take(capacity, of: Element.self)
  }

  private struct Dims {
    let head: Int
    let value: Int
    var larger: Int { max(head, value) }

    init(_ geometry: Geometry) {
      head = geometry.paddedHeadDim(Element.self)
      value = geometry.paddedValueDim(Element.self)
    }
  }
}
