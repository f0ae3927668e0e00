import AttentionBlocks
import CSwiftAttnShims

/// The layer on views: judge, plan, then one step after the other. Everything above it (C ABI, arrays) only translates.
public enum LayerOperator {
  /// The alignment of the memory that forward saves in, and of packed weights.
  public static let memoryAlignment = 64

  /// How many bytes the packed weights take; the other parameters do not count.
  /// - Throws: naming a weight that is missing, not a matrix, or of another type than the first.
  public static func packedBytes(_ parameters: LayerParameterViews) throws(AttentionError) -> Int {
    try parameters.judgedType() == .float64
      ? PackedWeights<Double>.bytes(parameters) : PackedWeights<Float>.bytes(parameters)
  }

  /// Packs the weights into `packed`, at least `packedBytes` bytes at a multiple of `memoryAlignment`, for forward
  /// passes of layers that have the same weights. Any number of calls may then read it at once.
  /// - Throws: as `packedBytes`, or naming `packed`, and nothing is written then; `outOfMemory`.
  public static func pack(
    _ parameters: LayerParameterViews, into packed: UnsafeMutableRawBufferPointer
  ) throws(AttentionError) {
    let environment = FloatEnvironment.enterDefault()
    defer { environment.restore() }
    let memory = try TensorView(
      memory: UnsafeRawBufferPointer(packed), "packed", bytes: try packedBytes(parameters))
    var outputs = OutputJudge<4>()
    try outputs.admit(memory, "packed", shape: memory.shape, type: .bool)
    try outputs.keepClear(of: parameters)
    guard let base = memory.data else { return }
    if parameters[.queryWeight]?.type == .float64 {
      try PackedWeights<Double>.pack(parameters, to: base)
    } else {
      try PackedWeights<Float>.pack(parameters, to: base)
    }
  }

  /// How many bytes forward saves for backward: O(B * (Sq + Sk)), never Sq * Sk.
  /// - Throws: `AttentionError` naming the argument when shapes or types do not fit.
  public static func savedBytes(_ arguments: borrowing LayerArguments) throws(AttentionError) -> Int {
    let shape = try LayerShape(arguments)
    return shape.type == .float64 ? try bytes(shape, Double.self) : try bytes(shape, Float.self)
  }

  private static func bytes<Element: ComputeElement>(
    _ shape: LayerShape, _: Element.Type
  ) throws(AttentionError) -> Int {
    guard let bytes = LayerBufferSizes<Element>(shape).bytes else {
      throw AttentionError(.outOfMemory, "the layer's memory is more than can be addressed")
    }
    return bytes
  }

  /// Computes out (B..., Sq, E), and unless nil the softmax, (B..., Hq, Sq, Sk') or with a rank less its average over
  /// the heads, where Sk' counts the layer's own keys too, which come last. What backward needs goes into `saved`, at
  /// least `savedBytes` bytes, unless that is nil. Nothing is written before all is judged.
  /// - Throws: `AttentionError` naming the argument when shapes, types or memory do not fit; `outOfMemory`,
  ///   `interrupted`, after which out is unspecified.
  public static func forward(
    _ arguments: borrowing LayerArguments, out: TensorView, weights: TensorView?, saved: UnsafeMutableRawBufferPointer?
  ) throws(AttentionError) {
    let environment = FloatEnvironment.enterDefault()
    defer { environment.restore() }
    switch arguments.query.type {
    case .float64: try forward(arguments, out, weights, saved, Double.self)
    default: try forward(arguments, out, weights, saved, Float.self)
    }
  }

  private static func forward<Element: ComputeElement>(
    _ arguments: borrowing LayerArguments, _ out: TensorView, _ weights: TensorView?,
    _ saved: UnsafeMutableRawBufferPointer?, _: Element.Type
  ) throws(AttentionError) {
    let shape = try LayerShape(arguments)
    let bytes = try bytes(shape, Element.self)
    var outputs = OutputJudge<4>()
    try outputs.admit(out, "out", shape: shape.outShape, type: Element.type)
    if let weights {
      let isAverage = weights.rank == shape.batch.rank + 2
      try outputs.admit(weights, "weights", shape: shape.weightsShape(isAverage: isAverage), type: Element.type)
    }
    let memory = try saved.map { saved throws(AttentionError) in
      try TensorView(memory: UnsafeRawBufferPointer(saved), "saved", bytes: bytes)
    }
    if let memory { try outputs.admit(memory, "saved", shape: memory.shape, type: .bool) }
    try outputs.keepClear(of: arguments)
    if let packed = arguments.packed {
      let bytes = PackedWeights<Element>.bytes(arguments.parameters)
      try outputs.keepClear(of: try TensorView(memory: packed, "packed", bytes: bytes), "packed")
    }
    guard let memory else { return try runInParts(arguments, shape, out, weights, Element.self) }
    guard let base = memory.data else { return }
    let plan = try LayerPlan<Element>(arguments, shape, base)
    try run(plan, out, weights, isSaved: true, CallSettings(arguments.interruptCheck))
  }

  /// Some batch elements at a time, so that memory does not grow with the batch.
  private static func runInParts<Element: ComputeElement>(
    _ arguments: borrowing LayerArguments, _ shape: LayerShape, _ out: TensorView, _ weights: TensorView?,
    _: Element.Type
  ) throws(AttentionError) {
    let bytes = try bytes(shape, Element.self)
    let count = shape.batch.rank == 0 ? 1 : shape.batch[0]
    let hasRows = shape.seqLenQ > 0 && shape.batches > 0
    if !hasRows || bytes > partBytes {
      // Judges the whole before so much memory is asked for, and before any part is written; this memory is not
      // touched.
      _ = try LayerPlan<Element>(arguments, shape, sa_nowhere())
    }
    // Nothing is written then, though there may be more sequences without rows than can be counted to.
    guard hasRows else { return }
    let call = try CallSettings(arguments.interruptCheck)
    let most = max(1, partBytes / max(bytes / count, 1))
    // Parts of equal length.
    let parts = (count + most - 1) / most
    let length = (count + parts - 1) / parts
    guard length < count else {
      guard let scratch = Memory(bytes: bytes, keptOn: .layer) else { throw .noMemory }
      let plan = try LayerPlan<Element>(arguments, shape, scratch.base)
      return try run(plan, out, weights, isSaved: false, call)
    }
    for first in stride(from: 0, to: count, by: length) {
      let part = first..<min(first + length, count)
      let partArguments = arguments.batchElements(part, batchRank: shape.batch.rank)
      let partShape = try LayerShape(partArguments)
      let bytes = try self.bytes(partShape, Element.self)
      guard let scratch = Memory(bytes: bytes, keptOn: .layer) else { throw .noMemory }
      try run(
        try LayerPlan<Element>(partArguments, partShape, scratch.base), out.firstAxis(part),
        weights.map { $0.firstAxis(part) }, isSaved: false, call)
    }
  }

  /// Smaller parts are slower, as each packs the weights again: with 8 MB (8,512) lost 3.5 %, and (8,128), which it cut
  /// into 7 and 1, 1.5 %; 12 to 40 MB were alike.
  private static let partBytes = 16 << 20

  @inline(never)
  private static func run<Element: ComputeElement>(
    _ plan: LayerPlan<Element>, _ out: TensorView, _ weights: TensorView?, isSaved: Bool, _ call: CallSettings
  ) throws(AttentionError) {
    try plan.project(call)
    plan.fillLeadingRows()
    let heads = plan.buffers.heads(plan.shape)
    try plan.turn(query: heads.query, key: heads.key, back: false, call)
    try plan.attend(needsLse: isSaved || weights != nil, call)
    if let weights {
      let isAverage = weights.rank == plan.shape.batch.rank + 2
      try AttentionOperator.computeWeights(
        plan.attention, lse: plan.buffers.lse, into: isAverage ? weights.withOneHead : weights, call)
    }
    try plan.projectOut(to: out, call)
  }

  /// Computes the gradients of sum(outGradient * out) that are not nil, given what forward saved for the same
  /// arguments; those of parameters are added to what is there. Nothing is written before all is judged.
  /// - Throws: as forward; after `outOfMemory` and `interrupted` the gradients are unspecified.
  public static func backward(
    _ arguments: borrowing LayerArguments, saved: UnsafeRawBufferPointer, outGradient: TensorView,
    into gradients: LayerGradients
  ) throws(AttentionError) {
    let environment = FloatEnvironment.enterDefault()
    defer { environment.restore() }
    switch arguments.query.type {
    case .float64: try backward(arguments, saved, outGradient, gradients, Double.self)
    default: try backward(arguments, saved, outGradient, gradients, Float.self)
    }
  }

  private static func backward<Element: ComputeElement>(
    _ arguments: borrowing LayerArguments, _ saved: UnsafeRawBufferPointer, _ outGradient: TensorView,
    _ gradients: LayerGradients, _: Element.Type
  ) throws(AttentionError) {
    let shape = try LayerShape(arguments)
    let bytes = try bytes(shape, Element.self)
    let memory = try TensorView(memory: saved, "saved", bytes: bytes)
    try TensorJudge.exact(outGradient, "dout", shape: shape.outShape, type: Element.type)
    try judge(gradients, arguments, saved: memory, outGradient: outGradient)
    guard let base = memory.data else { return }
    let plan = try LayerPlan<Element>(arguments, shape, base)
    guard let scratch = Memory(bytes: bytes, keptOn: .layer) else { throw .noMemory }
    try LayerBackward(
      plan: plan, gradients: LayerBuffers(scratch.base, shape), wanted: gradients, outGradient: outGradient,
      call: CallSettings(arguments.interruptCheck)
    ).run()
  }

  @inline(never)
  private static func judge(
    _ gradients: LayerGradients, _ arguments: borrowing LayerArguments, saved: TensorView, outGradient: TensorView
  ) throws(AttentionError) {
    let type = arguments.query.type
    // Of query, key, value, bias and the ten parameters.
    var outputs = OutputJudge<14>()
    try outputs.admit(gradients.query, "query gradient", shape: arguments.query.shape, type: type)
    try outputs.admit(gradients.key, "key gradient", of: arguments.key, "key", type: type)
    try outputs.admit(gradients.value, "value gradient", of: arguments.value, "value", type: type)
    try outputs.admit(gradients.bias, "bias gradient", of: arguments.bias, "bias", type: type)
    for parameter in LayerParameter.allCases {
      try outputs.admit(
        gradients.parameters[parameter], parameter.gradientName, of: arguments.parameters[parameter], parameter.name,
        type: type)
    }
    try outputs.keepClear(of: arguments)
    try outputs.keepClear(of: outGradient, "dout")
    try outputs.keepClear(of: saved, "saved")
  }
}

extension OutputJudge {
  fileprivate mutating func keepClear(of arguments: borrowing LayerArguments) throws(AttentionError) {
    try keepClear(of: arguments.query, "query")
    try keepClear(of: arguments.key, "key")
    try keepClear(of: arguments.value, "value")
    try keepClear(of: arguments.mask, "mask")
    try keepClear(of: arguments.bias, "bias")
    try keepClear(of: arguments.keyLengths, "key_lengths")
    try keepClear(of: arguments.parameters)
  }

  fileprivate mutating func keepClear(of parameters: LayerParameterViews) throws(AttentionError) {
    for parameter in LayerParameter.allCases { try keepClear(of: parameters[parameter], parameter.name) }
  }

  /// The gradient of an operand that may not be there.
  fileprivate mutating func admit(
    _ gradient: TensorView?, _ gradientName: StaticString, of operand: TensorView?, _ name: StaticString,
    type: ElementType
  ) throws(AttentionError) {
    guard let gradient else { return }
    guard let operand else {
      throw AttentionError(.invalidArgument, "a \(gradientName) was asked for, but \(name) was not given")
    }
    try admit(gradient, gradientName, shape: operand.shape, type: type)
  }
}

extension TensorView {
  /// The bytes that the layer needs, at the start of these.
  fileprivate init(memory: UnsafeRawBufferPointer, _ name: StaticString, bytes: Int) throws(AttentionError) {
    guard let base = memory.baseAddress else { throw AttentionError(.invalidArgument, "\(name) has no memory") }
    guard UInt(bitPattern: base) % UInt(LayerOperator.memoryAlignment) == 0 else {
      throw AttentionError(
        .invalidArgument, "\(name) is misaligned: it must lie at a multiple of \(LayerOperator.memoryAlignment) bytes")
    }
    guard memory.count >= bytes else {
      throw AttentionError(.invalidArgument, "\(name) has \(memory.count) bytes but needs \(bytes)")
    }
    var shape = Shape(rank: 1)
    var strides = shape
    (shape[0], strides[0]) = (bytes, 1)
    self.init(data: UnsafeMutableRawPointer(mutating: base), type: .bool, shape: shape, strides: strides)
  }

  /// (B..., Sq, Sk) as (B..., 1, Sq, Sk).
  fileprivate var withOneHead: TensorView { withHeadAxis(heads: 1) }
}
