import AttentionBlocks

/// The derivative of a layer, step by step upwards; each line names the step of `LayerPlan` that it differentiates.
struct LayerBackward<Element: ComputeElement> {
  let plan: LayerPlan<Element>
  /// The gradients of what the plan's buffers hold, in the same places.
  let gradients: LayerBuffers<Element>
  let wanted: LayerGradients
  let outGradient: TensorView
  let call: CallSettings

  private var shape: LayerShape { plan.shape }

  func run() throws(AttentionError) {
    let needsHeads = needsQuery || needsKey || needsValue
    let needsAttention = needsHeads || wanted.bias != nil
    // G7, of out = merged Wo^T + bo
    try LinearGradient(
      x: SequenceRows(plan.buffers.merged), weight: plan.weight(.outWeight),
      outputGradient: SequenceRows(outGradient), inputGradient: needsAttention ? SequenceRows(gradients.merged) : nil,
      weightGradient: parameterGradient(.outWeight), biasGradient: parameterGradient(.outBias)
    ).run(call)
    guard needsAttention else { return }
    try differentiateAttention()
    guard needsHeads else { return }
    let heads = gradients.heads(shape)
    // G4, of the learned key and value; the zero ones are constants
    addLeadingRow(gradients.key, to: .keyToken)
    addLeadingRow(gradients.value, to: .valueToken)
    // G3, of the turn by the positions
    if needsQuery || needsKey { try plan.turn(query: heads.query, key: heads.key, back: true, call) }
    try differentiateProjections()
  }

  // Whether the heads of q, k and v need gradients: for what they are made of, or the input that they are made from.

  private var needsQuery: Bool { wanted.query != nil || wants(.queryWeight, .queryBias) }
  private var needsKey: Bool {
    inputGradient(plan.sources.key) != nil || wants(.keyWeight, .keyBias) || wanted.parameters[.keyToken] != nil
  }
  private var needsValue: Bool {
    inputGradient(plan.sources.value) != nil || wants(.valueWeight, .valueBias) || wanted.parameters[.valueToken] != nil
  }

  private func wants(_ weight: LayerParameter, _ bias: LayerParameter) -> Bool {
    wanted.parameters[weight] != nil || wanted.parameters[bias] != nil
  }

  /// G6 and G5, of merged = the heads of attention(q, k, v).
  private func differentiateAttention() throws(AttentionError) {
    let heads = gradients.heads(shape)
    var targets = AttentionGradients(bias: wanted.bias)
    if needsQuery { targets.query = heads.query }
    if needsKey { targets.key = heads.key }
    if needsValue { targets.value = heads.value }
    try AttentionOperator.run(
      plan.attention,
      AttentionResults(
        out: plan.buffers.merged.withHeadAxis(heads: shape.headsQ), lse: plan.buffers.lse,
        outGradient: gradients.merged.withHeadAxis(heads: shape.headsQ)),
      into: targets, call)
  }

  /// G2 and G1, of q, k, v = X W^T + b: products over as many of the three as lie side by side.
  private func differentiateProjections() throws(AttentionError) {
    let (query, key, value) = (queryProjection, keyProjection, valueProjection)
    let keyAndValue = key.joined(value)
    if let keyAndValue, let all = query.joined(keyAndValue) { return try all.run(call) }
    try query.run(call)
    if let keyAndValue { return try keyAndValue.run(call) }
    try key.run(call)
    try value.run(call)
  }

  private var queryProjection: LinearGradient<Element> {
    LinearGradient(
      x: SequenceRows(plan.inputs.query), weight: plan.weight(.queryWeight),
      outputGradient: SequenceRows(gradients.query), inputGradient: wanted.query.map { SequenceRows($0) },
      weightGradient: parameterGradient(.queryWeight), biasGradient: parameterGradient(.queryBias),
      hasUnseenRows: plan.mayHideTokens)
  }

  private var keyProjection: LinearGradient<Element> {
    LinearGradient(
      x: SequenceRows(plan.inputs.key), weight: plan.weight(.keyWeight),
      outputGradient: SequenceRows(gradients.key, skipping: shape.leadingKeys),
      inputGradient: inputGradient(plan.sources.key), addsToInputGradient: plan.sources.key != .key,
      weightGradient: parameterGradient(.keyWeight), biasGradient: parameterGradient(.keyBias),
      hasUnseenRows: plan.mayHideTokens)
  }

  private var valueProjection: LinearGradient<Element> {
    LinearGradient(
      x: SequenceRows(plan.inputs.value), weight: plan.weight(.valueWeight),
      outputGradient: SequenceRows(gradients.value, skipping: shape.leadingKeys),
      inputGradient: inputGradient(plan.sources.value), addsToInputGradient: plan.sources.value != .value,
      weightGradient: parameterGradient(.valueWeight), biasGradient: parameterGradient(.valueBias),
      hasUnseenRows: plan.mayHideTokens)
  }

  private func inputGradient(_ source: LayerInput) -> SequenceRows<Element>? {
    switch source {
    case .query: wanted.query.map { SequenceRows($0) }
    case .key: wanted.key.map { SequenceRows($0) }
    case .value: wanted.value.map { SequenceRows($0) }
    }
  }

  private func parameterGradient(_ parameter: LayerParameter) -> StridedMatrix<Element>? {
    wanted.parameters[parameter].map { StridedMatrix($0, as: Element.self) }
  }

  /// Adds the gradients of the first row of every sequence to that of the token which it is a copy of.
  private func addLeadingRow(_ rows: TensorView, to parameter: LayerParameter) {
    guard let target = parameterGradient(parameter) else { return }
    let sequences = SequenceRows<Element>(rows)
    for batch in 0..<shape.batches {
      let row = sequences.matrix(batch, of: shape.batches)
      for column in 0..<target.columns { target.element(0, column).pointee += row.element(0, column).pointee }
    }
  }
}
