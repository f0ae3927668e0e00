import AttentionBlocks

/// `softmax` for a few queries in rows, with keys in the lanes (docs/Algorithm.md, "Few queries"). Each score goes
/// through the same operations, and a row is summed over its keys in the same two chains: so the bits are the same. The
/// chains are scalar here, 64 keys in 32 additions one after the other, which the next row's exponentials overlap with.
@inline(never)
func softmaxRows<V: LaneVector>(_ rows: RowScores<V.Scalar>, _ state: SoftmaxState<V.Scalar>, _: V.Type) {
  let vectors = V.Scalar.vectors(rows.keys)
  for row in 0..<rows.rows {
    let scores = rows.scores.base + row &* rows.scores.stride
    hideKeys(rows, row, scores, lanes: vectors &* V.lanes)
    let nearest = rowMaximum(scores, vectors, V.self) + V(repeating: state.headroom)
    let step = ReferenceStep(from: V(repeating: state.reference[row]), nearest: nearest)
    if step.base.isWithinShift {
      exponentiate(scores, vectors, step.base, subtracts: false)
    } else {
      exponentiate(scores, vectors, step.base, subtracts: true)
    }
    let correction = step.correction
    let sum = V.fma(V(repeating: state.sum[row]), correction, V(repeating: sumOfChains(scores, rows.keys)))
    state.sum[row] = sum.first
    state.reference[row] = step.reference.first
    if V.anyUnequal(correction, V(repeating: 1)) {
      rescale(state.output.base + row &* state.output.stride, state.outputDims, correction)
    }
  }
}

/// Scores of hidden pairs, and those past the last key, become -inf.
@inline(__always)
private func hideKeys<Scalar: AttentionElement>(
  _ rows: RowScores<Scalar>, _ row: Int, _ scores: UnsafeMutablePointer<Scalar>, lanes: Int
) {
  for key in rows.keys..<lanes { scores[key] = -.infinity }
  guard rows.visibility != nil else { return }
  for key in 0..<rows.keys where !rows.sees(row: row, key: rows.firstKey &+ key) { scores[key] = -.infinity }
}

@inline(__always)
private func rowMaximum<V: LaneVector>(_ scores: UnsafeMutablePointer<V.Scalar>, _ vectors: Int, _: V.Type) -> V {
  var largest = V(repeating: -.infinity)
  for vector in 0..<vectors { largest = V.maximum(V.load(scores + vector &* V.lanes), largest) }
  return V(repeating: largest.largestLane)
}

/// p = 2^(s - m) in place.
@inline(__always)
private func exponentiate<V: LaneVector>(
  _ scores: UnsafeMutablePointer<V.Scalar>, _ vectors: Int, _ base: Exp2Base<V>, subtracts: Bool
) {
  for vector in 0..<vectors {
    let score = scores + vector &* V.lanes
    base.exp2(V.load(score), subtracts: subtracts).store(score)
  }
}

/// Even and odd keys apart, as `softmax` sums them.
@inline(__always)
private func sumOfChains<Scalar: AttentionElement>(_ p: UnsafeMutablePointer<Scalar>, _ keys: Int) -> Scalar {
  var even: Scalar = 0
  var odd: Scalar = 0
  var key = 0
  while key &+ 2 <= keys {
    even += p[key]
    odd += p[key &+ 1]
    key &+= 2
  }
  if key < keys { even += p[key] }
  return even + odd
}

/// Whole vectors: rows of the accumulator have room for them.
@inline(__always)
private func rescale<V: LaneVector>(_ row: UnsafeMutablePointer<V.Scalar>, _ dims: Int, _ correction: V) {
  var column = 0
  while column < dims {
    (V.load(row + column) * correction).store(row + column)
    column &+= V.lanes
  }
}

extension LaneVector {
  @inline(__always) fileprivate func withLanes<R>(_ body: (UnsafePointer<Scalar>) -> R) -> R {
    withUnsafePointer(to: self) { body(UnsafeRawPointer($0).assumingMemoryBound(to: Scalar.self)) }
  }

  @inline(__always) fileprivate var first: Scalar { withLanes { $0[0] } }

  /// None is NaN.
  @inline(__always) fileprivate var largestLane: Scalar {
    withLanes { lanes in
      var largest = lanes[0]
      for i in 1..<Self.lanes where lanes[i] > largest { largest = lanes[i] }
      return largest
    }
  }
}
