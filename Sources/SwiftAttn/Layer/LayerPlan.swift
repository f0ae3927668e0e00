import AttentionBlocks
import CSwiftAttnShims

/// A judged layer: inputs, parameters and options fit each other, and every step knows its operands. Made once per
/// call.
///
///     L1, L2  q, k, v = the heads of X_q Wq^T + bq, X_k Wk^T + bk, X_v Wv^T + bv     `project`
///     L3      q and k turn by their positions                                        `RotaryPass`
///     L4      a learned and a zero key and value, before the given ones              `fillLeadingRows`
///     L5, L6  merged = the heads of attention side by side                           `attend`
///     L7      out = merged Wo^T + bo                                                 `projectOut`
///
/// (Vaswani et al. 2017, section 3.2.2.) Heads are never moved: they are strides of the rows that the products write.
struct LayerPlan<Element: ComputeElement>: Sendable {
  let shape: LayerShape
  let inputs: (query: TensorView, key: TensorView, value: TensorView)
  /// Which argument stands for the keys, and which for the values.
  let sources: (key: LayerInput, value: LayerInput)
  let parameters: LayerParameterViews
  private let packedWeights: PackedWeights<Element>?
  let rope: Rope?
  let buffers: LayerBuffers<Element>
  let attention: AttentionPlan<Element>
  /// Whether a token may be seen by no query at all, or a query see no key.
  let mayHideTokens: Bool

  /// `memory` has what `LayerBufferSizes` says. Forward has judged the packed weights; backward has not, and reads
  /// none.
  @inline(never)
  init(
    _ arguments: borrowing LayerArguments, _ shape: LayerShape, _ memory: UnsafeMutableRawPointer
  ) throws(AttentionError) {
    self.shape = shape
    let key = arguments.key ?? arguments.query
    inputs = (arguments.query, key, arguments.value ?? key)
    let keySource: LayerInput = arguments.key == nil ? .query : .key
    sources = (key: keySource, value: arguments.value == nil ? keySource : .value)
    parameters = arguments.parameters
    packedWeights = arguments.packed?.baseAddress.map { PackedWeights($0, arguments.parameters) }
    rope = arguments.rope
    buffers = LayerBuffers(memory, shape)
    let heads = buffers.heads(shape)
    var operands = AttentionArguments(query: heads.query, key: heads.key, value: heads.value)
    operands.mask = arguments.mask
    operands.bias = arguments.bias
    operands.keyLengths = arguments.keyLengths
    operands.causal = arguments.causal
    operands.leadingKeys = shape.leadingKeys
    attention = try AttentionPlan(operands)
    mayHideTokens =
      shape.seqLenQ == 0 || shape.seqLenK == 0 || arguments.mask != nil || arguments.bias != nil
      || arguments.keyLengths != nil
      || (arguments.causal != .none && shape.seqLenQ != shape.givenKeys)
  }

  func weight(_ parameter: LayerParameter) -> StridedMatrix<Element> {
    StridedMatrix(parameters[parameter], as: Element.self)
  }

  private func packed(_ parameter: LayerParameter) -> PackedMatrix<Element>? {
    packedWeights.map { $0.transposed(parameter, weight(parameter)) }
  }

  func bias(_ parameter: LayerParameter) -> StridedMatrix<Element>? {
    parameters[parameter].map { StridedMatrix($0, as: Element.self) }
  }

  /// L1, each as large as it can be: self-attention is one product.
  @inline(never)
  func project(_ call: CallSettings) throws(AttentionError) {
    let query = LinearMap(
      x: SequenceRows(inputs.query), weight: weight(.queryWeight), bias: bias(.queryBias),
      y: SequenceRows(buffers.query), packed: packed(.queryWeight))
    let key = LinearMap(
      x: SequenceRows(inputs.key), weight: weight(.keyWeight), bias: bias(.keyBias),
      y: SequenceRows(buffers.key, skipping: shape.leadingKeys), packed: packed(.keyWeight))
    let value = LinearMap(
      x: SequenceRows(inputs.value), weight: weight(.valueWeight), bias: bias(.valueBias),
      y: SequenceRows(buffers.value, skipping: shape.leadingKeys), packed: packed(.valueWeight))
    let keyAndValue = key.joined(value)
    if let keyAndValue, let all = query.joined(keyAndValue) { return try all.run(call) }
    try query.run(call)
    if let keyAndValue { return try keyAndValue.run(call) }
    try key.run(call)
    try value.run(call)
  }

  /// L4.
  func fillLeadingRows() {
    guard shape.leadingKeys > 0 else { return }
    fillLeadingRows(SequenceRows(buffers.key), bias(.keyToken))
    fillLeadingRows(SequenceRows(buffers.value), bias(.valueToken))
  }

  private func fillLeadingRows(_ rows: SequenceRows<Element>, _ token: StridedMatrix<Element>?) {
    for batch in 0..<shape.batches {
      let sequence = rows.matrix(batch, of: shape.batches)
      for row in 0..<shape.leadingKeys {
        let source = row == 0 ? token : nil
        for column in 0..<rows.width {
          sequence.element(row, column).pointee = source?.element(0, column).pointee ?? 0
        }
      }
    }
  }

  /// L3 on rows of these heads, or its derivative.
  func turn(
    query: TensorView, key: TensorView, back: Bool, _ call: CallSettings
  ) throws(AttentionError) {
    guard let rope else { return }
    var pass = RotaryPass<Element>(
      rope: rope, dim: rope.dim ?? shape.headDim, queries: .init(query, offset: rope.offset),
      keys: .init(key.droppingRows(shape.leadingKeys), offset: rope.keyOffset ?? rope.offset),
      batches: shape.batches, turnsBack: back, kernels: Element.kernels(call.instructionSet))
    try pass.run(call)
  }

  /// L5 and L6; lse unless it is not needed.
  func attend(needsLse: Bool, _ call: CallSettings) throws(AttentionError) {
    try AttentionOperator.run(
      attention, out: buffers.merged.withHeadAxis(heads: shape.headsQ), lse: needsLse ? buffers.lse : nil, call)
  }

  /// L7.
  @inline(never)
  func projectOut(to out: TensorView, _ call: CallSettings) throws(AttentionError) {
    try LinearMap(
      x: SequenceRows(buffers.merged), weight: weight(.outWeight), bias: bias(.outBias), y: SequenceRows(out),
      packed: packed(.outWeight)
    ).run(call)
  }
}

enum LayerInput {
  case query, key, value
}

extension StridedMatrix {
  /// A judged matrix, or a vector as one row that repeats; no view is one of no elements.
  @inline(never)
  init(_ view: TensorView?, as: Element.Type) {
    let size = MemoryLayout<Element>.stride
    guard let view, view.rank > 0 else {
      self.init(base: sa_nowhere().assumingMemoryBound(to: Element.self), rows: 0, columns: 0, rowStride: 0)
      return
    }
    let base = (view.data ?? sa_nowhere()).assumingMemoryBound(to: Element.self)
    let columns = view.shape.last(1)
    guard !view.isEmpty else {
      // Its strides, which nothing steps over, may be too large to multiply.
      self.init(base: base, rows: view.rank == 1 ? 1 : view.shape.last(2), columns: columns, rowStride: 0)
      return
    }
    let columnStride = columns == 1 ? 1 : view.strides.last(1) / size
    if view.rank == 1 {
      self.init(base: base, rows: 1, columns: columns, rowStride: 0, columnStride: columnStride)
    } else {
      self.init(
        base: base, rows: view.shape.last(2), columns: columns, rowStride: view.strides.last(2) / size,
        columnStride: columnStride)
    }
  }
}

extension TensorView {
  /// (B..., S, D) without the first rows of each sequence.
  func droppingRows(_ count: Int) -> TensorView {
    var view = self
    view.data = data.map { $0 + count * strides.last(2) }
    view.shape[rank - 2] -= count
    return view
  }
}
