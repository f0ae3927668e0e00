import AttentionBlocks

/// Y = X W^T + b over all rows of all sequences.
struct LinearMap<Element: ComputeElement> {
  let x: SequenceRows<Element>
  /// (outputs, inputs)
  let weight: StridedMatrix<Element>
  /// One row, repeated; nil: zeros.
  let bias: StridedMatrix<Element>?
  let y: SequenceRows<Element>
  /// W^T, where it has been packed beforehand.
  let packed: PackedMatrix<Element>?

  /// This and `other` as one product: they have the same input, and their weights, biases and outputs are neighbours,
  /// as the three projections of self-attention are where PyTorch's in_proj_weight holds them.
  func joined(_ other: Self) -> Self? {
    guard x.isSame(as: other.x), let weight = weight.above(other.weight), let y = y.joined(other.y) else { return nil }
    let bothPacked = packed.flatMap { first in other.packed.flatMap { first.beside($0) } }
    guard bothPacked != nil || packed == nil || joiningSavesMoreThanPacking else { return nil }
    switch (bias, other.bias) {
    case (nil, nil): return Self(x: x, weight: weight, bias: nil, y: y, packed: bothPacked)
    case (let first?, let second?):
      guard let bias = first.beside(second) else { return nil }
      return Self(x: x, weight: weight, bias: bias, y: y, packed: bothPacked)
    default: return nil
    }
  }

  /// Whether one product that packs its weights is quicker than two that need not: with many rows, or small weights. A
  /// layer of width 100, no whole panels, gained a fifth by packed weights with 1 token and lost 2 % with 16 and 7 %
  /// with 80; one of width 32 lost 3 to 8 % with any.
  private var joiningSavesMoreThanPacking: Bool { x.count >= 16 || weight.rows * weight.columns <= 64 * 64 }

  @inline(never)
  func run(_ call: CallSettings) throws(AttentionError) {
    let groups = x.groups(with: y)
    for group in 0..<groups {
      let target = y.matrix(group, of: groups)
      var start = bias
      start?.rows = target.rows
      try MatrixProduct(
        a: x.matrix(group, of: groups), b: weight.transposed, c: target, start: start, packedB: packed
      ).run(call)
    }
  }
}

/// The gradients of a linear map, from dY: dX = dY W, dW += dY^T X and db += the sum of dY's rows. Nil leaves one out.
struct LinearGradient<Element: ComputeElement> {
  let x: SequenceRows<Element>
  let weight: StridedMatrix<Element>
  let outputGradient: SequenceRows<Element>
  var inputGradient: SequenceRows<Element>?
  /// Whether dX is added to what is there.
  var addsToInputGradient = false
  var weightGradient: StridedMatrix<Element>?
  /// One row.
  var biasGradient: StridedMatrix<Element>?
  /// Whether rows of X may be unseen; see `withSeenRows`.
  var hasUnseenRows = false

  /// This and `other` as one, as `LinearMap.joined`; they must agree on what is computed.
  func joined(_ other: Self) -> Self? {
    guard x.isSame(as: other.x), let weight = weight.above(other.weight),
      let outputGradient = outputGradient.joined(other.outputGradient),
      (inputGradient == nil) == (other.inputGradient == nil)
    else { return nil }
    if let inputGradient, let second = other.inputGradient {
      guard inputGradient.isSame(as: second), other.addsToInputGradient else { return nil }
    }
    var joined = Self(
      x: x, weight: weight, outputGradient: outputGradient, inputGradient: inputGradient,
      addsToInputGradient: addsToInputGradient, hasUnseenRows: hasUnseenRows || other.hasUnseenRows)
    guard Self.join(weightGradient, other.weightGradient, &joined.weightGradient, { $0.above($1) }),
      Self.join(biasGradient, other.biasGradient, &joined.biasGradient, { $0.beside($1) })
    else { return nil }
    return joined
  }

  /// Whether both are nil or neighbours; `result` is what they make together.
  private static func join(
    _ first: StridedMatrix<Element>?, _ second: StridedMatrix<Element>?, _ result: inout StridedMatrix<Element>?,
    _ join: (StridedMatrix<Element>, StridedMatrix<Element>) -> StridedMatrix<Element>?
  ) -> Bool {
    guard let first, let second else { return first == nil && second == nil }
    result = join(first, second)
    return result != nil
  }

  @inline(never)
  func run(_ call: CallSettings) throws(AttentionError) {
    if let inputGradient {
      let groups = outputGradient.groups(with: inputGradient)
      for group in 0..<groups {
        let target = inputGradient.matrix(group, of: groups)
        try MatrixProduct(
          a: outputGradient.matrix(group, of: groups), b: weight, c: target, start: addsToInputGradient ? target : nil
        ).run(call)
      }
    }
    let groups = outputGradient.groups(with: x)
    for group in 0..<groups {
      try addParameterGradients(
        x.matrix(group, of: groups), outputGradient.matrix(group, of: groups), call)
    }
  }

  @inline(never)
  private func addParameterGradients(
    _ x: StridedMatrix<Element>, _ gradient: StridedMatrix<Element>, _ call: CallSettings
  ) throws(AttentionError) {
    if let biasGradient {
      try withUnsafePointer(to: Element(1)) { (one: UnsafePointer<Element>) throws(AttentionError) in
        let ones = StridedMatrix(
          base: UnsafeMutablePointer(mutating: one), rows: 1, columns: gradient.rows, rowStride: 0, columnStride: 0)
        try MatrixProduct(a: ones, b: gradient, c: biasGradient, start: biasGradient).run(call)
      }
    }
    guard let weightGradient else { return }
    try withSeenRows(of: x, gradient, call) { (x: StridedMatrix<Element>) throws(AttentionError) in
      try MatrixProduct(a: gradient.transposed, b: x, c: weightGradient, start: weightGradient).run(call)
    }
  }

  /// body(X), or where it is not finite a copy with zeros in the rows of a zero gradient: a token that nobody sees
  /// reaches no gradient, whatever it holds, but 0 * NaN would.
  private func withSeenRows(
    of x: StridedMatrix<Element>, _ gradient: StridedMatrix<Element>, _ call: CallSettings,
    _ body: (StridedMatrix<Element>) throws(AttentionError) -> Void
  ) throws(AttentionError) {
    let masking = Element.kernels(call.instructionSet).masking
    guard hasUnseenRows, masking.hasNonFinite(x.base, x.rowStride, x.columnStride, x.rows, x.columns) else {
      return try body(x)
    }
    guard let memory = Memory(bytes: x.rows * x.columns * MemoryLayout<Element>.stride) else { throw .noMemory }
    let copy = StridedMatrix(
      base: memory.base.bindMemory(to: Element.self, capacity: x.rows * x.columns), rows: x.rows, columns: x.columns,
      rowStride: x.columns)
    for row in 0..<x.rows {
      let isSeen = (0..<gradient.columns).contains { gradient.element(row, $0).pointee != 0 }
      for column in 0..<x.columns {
        copy.element(row, column).pointee = isSeen ? x.element(row, column).pointee : 0
      }
    }
    try body(copy)
  }
}
