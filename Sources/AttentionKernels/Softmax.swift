import AttentionBlocks

/// One step of the running softmax for one panel of queries (docs/Algorithm.md, "Forward").
///
/// Queries are in the lanes, so a row's maximum and sum are plain lane values. Where a score comes nearer to the
/// reference m than the headroom, m moves up, far enough that it rarely moves again. For each vector of queries:
///   x = headroom + max_j s_j;  m' = round(x + slack) where x > m, else m
///   p_j = 2^(s_j - m');  l = l * 2^(m - m') + sum_j p_j;  o = o * 2^(m - m')
/// Keys are summed in two chains, even and odd, to hide the latency of the addition; `firstKey` is even, so that which
/// chain a key belongs to depends on the key alone.
@inline(never)
func softmax<V: LaneVector>(
  _ panel: PanelScores<V.Scalar>, _ state: SoftmaxState<V.Scalar>, _: V.Type
) {
  for vector in 0..<panel.vectors {
    let lane = vector &* V.lanes
    let column = panel.scores.base + lane
    if panel.visibility != nil { hideScores(panel, lane: lane, V.self) }
    let nearest = columnMaximum(panel, column, V.self) + V(repeating: state.headroom)
    let step = ReferenceStep(from: V.load(state.reference + lane), nearest: nearest)
    let sum =
      step.base.isWithinShift
      ? exponentiate(panel, column, step.base, subtracts: false)
      : exponentiate(panel, column, step.base, subtracts: true)
    let correction = step.correction
    V.fma(V.load(state.sum + lane), correction, sum).store(state.sum + lane)
    step.reference.store(state.reference + lane)
    if V.anyUnequal(correction, V(repeating: 1)) {
      rescale(state.output, lane: lane, rows: state.outputDims, correction)
    }
  }
}

/// From m to m', for the scores that come nearest to it.
struct ReferenceStep<V: LaneVector> {
  private let before: V
  let reference: V
  let base: Exp2Base<V>

  @inline(__always)
  init(from before: V, nearest: V) {
    self.before = before
    reference = V.whereGreater(nearest, before, (nearest + V(repeating: V.Scalar(slack))).rounded, before)
    // A row that has seen nothing keeps m = -inf; 0 in its place makes every 2^(s - m) zero and no NaN.
    base = Exp2Base(V.whereEqual(reference, V(repeating: -.infinity), V.zero, reference))
  }

  /// 2^(m - m'). Where m moved from -inf, l and o are zero or not set yet.
  @inline(__always) var correction: V {
    exp2(V.whereEqual(before, V(repeating: -.infinity), V.zero, before - reference))
  }
}

/// How far m moves up beyond what is needed: in base-2 units, so that scores may grow by as much (5.5 in natural ones)
/// before anything is rescaled. It costs as many of the 126 binary orders below m that f32 has.
private var slack: Double { 8 }

/// Scores of hidden pairs become -inf.
@inline(__always)
private func hideScores<V: LaneVector>(_ panel: PanelScores<V.Scalar>, lane: Int, _: V.Type) {
  guard let visibility = panel.visibility else { return }
  for key in panel.firstKey..<panel.endKey {
    let score = panel.scores.base + (key &* panel.scores.stride &+ lane)
    let words = visibility + ((key &>> 5) &* panel.visibilityStride &+ lane)
    V.whereBit(words, 1 &<< UInt32(truncatingIfNeeded: key & 31), V.load(score), V(repeating: -.infinity)).store(score)
  }
}

@inline(__always)
private func columnMaximum<V: LaneVector>(
  _ panel: PanelScores<V.Scalar>, _ column: UnsafeMutablePointer<V.Scalar>, _: V.Type
) -> V {
  let stride = panel.scores.stride
  var even = V(repeating: -.infinity)
  var odd = even
  var key = panel.firstKey
  while key &+ 2 <= panel.endKey {
    even = V.maximum(V.load(column + key &* stride), even)
    odd = V.maximum(V.load(column + (key &+ 1) &* stride), odd)
    key &+= 2
  }
  if key < panel.endKey { even = V.maximum(V.load(column + key &* stride), even) }
  return V.maximum(even, odd)
}

/// p = 2^(s - m) in place; returns the sum over the keys.
@inline(__always)
private func exponentiate<V: LaneVector>(
  _ panel: PanelScores<V.Scalar>, _ column: UnsafeMutablePointer<V.Scalar>, _ base: Exp2Base<V>, subtracts: Bool
) -> V {
  let stride = panel.scores.stride
  var even = V.zero
  var odd = V.zero
  var key = panel.firstKey
  while key &+ 2 <= panel.endKey {
    let first = base.exp2(V.load(column + key &* stride), subtracts: subtracts)
    let second = base.exp2(V.load(column + (key &+ 1) &* stride), subtracts: subtracts)
    first.store(column + key &* stride)
    second.store(column + (key &+ 1) &* stride)
    even = even + first
    odd = odd + second
    key &+= 2
  }
  if key < panel.endKey {
    let last = base.exp2(V.load(column + key &* stride), subtracts: subtracts)
    last.store(column + key &* stride)
    even = even + last
  }
  return even + odd
}

@inline(__always)
private func rescale<V: LaneVector>(
  _ output: LaneMatrix<V.Scalar>, lane: Int, rows: Int, _ correction: V
) {
  var o = output.base + lane
  for _ in 0..<rows {
    (V.load(o) * correction).store(o)
    o += output.stride
  }
}

/// The softmax's derivative for one panel (docs/Algorithm.md, "Backward"); the product dP comes with
/// -delta added:
///   P = 2^(s - lse)   (forward: the probabilities, from the saved lse instead of m and l)
///   dS = P * (dP - delta)   (differentiates softmax; delta = rowsum(dO * O) = rowsum(P * dP))
/// Hidden pairs get P = dS = 0 by selection, so that nothing of a masked value survives.
@inline(never)
func softmaxGradient<V: LaneVector>(
  _ panel: PanelScores<V.Scalar>, _ gradient: SoftmaxGradient<V.Scalar>, _: V.Type
) {
  for vector in 0..<panel.vectors {
    let lane = vector &* V.lanes
    let logSumExp = V.load(gradient.logSumExp + lane)
    let infinity = V(repeating: .infinity)
    let certain = leastCertain(logSumExp)
    if V.anyUnequal(certain, infinity) {
      differentiate(panel, gradient, lane: lane, logSumExp, certain, isLarge: true)
    } else {
      differentiate(panel, gradient, lane: lane, logSumExp, certain, isLarge: false)
    }
  }
}

/// Where lse is so large that its rounding alone, here and on its way through the caller's natural logarithms, could
/// make a P of 2 and more (or of almost 0) out of 1: the exponents s - lse that may be 0, which are those above this
/// and then have to be. Infinity in the lanes of usual rows.
@inline(__always)
private func leastCertain<V: LaneVector>(_ logSumExp: V) -> V {
  let (infinity, magnitude) = (V(repeating: .infinity), logSumExp.magnitude)
  let rounding = V.zero - magnitude * V(repeating: 3 / V.roundingShift)
  let large = V.whereGreater(magnitude, V(repeating: V.roundingShift), rounding, infinity)
  return V.whereEqual(magnitude, infinity, infinity, large)
}

@inline(__always)
private func differentiate<V: LaneVector>(
  _ panel: PanelScores<V.Scalar>, _ gradient: SoftmaxGradient<V.Scalar>, lane: Int, _ logSumExp: V, _ certain: V,
  isLarge: Bool
) {
  for key in panel.firstKey..<panel.endKey {
    let score = panel.scores.base + (key &* panel.scores.stride &+ lane)
    let slot = gradient.gradient.base + (key &* gradient.gradient.stride &+ lane)
    let exponent = V.load(score) - logSumExp
    var p = exp2(isLarge ? V.whereGreater(exponent, certain, V.zero, exponent) : exponent)
    var dS = p * V.load(slot)
    if let visibility = panel.visibility {
      let words = visibility + ((key &>> 5) &* panel.visibilityStride &+ lane)
      let bit: UInt32 = 1 &<< UInt32(truncatingIfNeeded: key & 31)
      p = V.whereBit(words, bit, p, V.zero)
      dS = V.whereBit(words, bit, dS, V.zero)
    }
    p.store(score)
    dS.store(slot)
  }
}

/// scores *= factor.
@inline(never)
func scaleScores<V: LaneVector>(_ panel: PanelScores<V.Scalar>, _ factor: V) {
  for key in panel.firstKey..<panel.endKey {
    for vector in 0..<panel.vectors {
      let score = panel.scores.base + (key &* panel.scores.stride &+ vector &* V.lanes)
      (V.load(score) * factor).store(score)
    }
  }
}

/// sums[lane] = sum over rows of a * b, in order of the rows.
@inline(never)
func dotColumns<V: LaneVector>(
  _ a: LaneMatrix<V.Scalar>, _ b: LaneMatrix<V.Scalar>, rows: Int, vectors: Int,
  _ sums: UnsafeMutablePointer<V.Scalar>, _: V.Type
) {
  for vector in 0..<vectors {
    let lane = vector &* V.lanes
    var sum = V.zero
    for row in 0..<rows {
      sum = V.fma(V.load(a.base + (row &* a.stride &+ lane)), V.load(b.base + (row &* b.stride &+ lane)), sum)
    }
    sum.store(sums + lane)
  }
}
