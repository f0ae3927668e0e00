import AttentionBlocks

/// One step of the running softmax for one panel of queries (docs/Algorithm.md, "Forward").
///
/// Queries are in the lanes, so a row's maximum and sum are plain lane values. For each vector of queries:
///   m' = max(m, headroom + max_j s_j);  p_j = 2^(s_j - m');  l = l * 2^(m - m') + sum_j p_j;  o = o * 2^(m - m')
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
    let before = V.load(state.maximum + lane)
    let maximum = V.maximum(columnMaximum(panel, column, V.self) + V(repeating: state.headroom), before)
    // A row that has seen nothing keeps m = -inf; 0 in its place makes every 2^(s - m) zero and no NaN.
    let minusInfinity = V(repeating: -.infinity)
    let reference = V.whereEqual(maximum, minusInfinity, V.zero, maximum)
    let correction = exp2(before - reference)
    let sum = exponentiate(panel, column, reference, V.self)
    V.fma(V.load(state.sum + lane), correction, sum).store(state.sum + lane)
    maximum.store(state.maximum + lane)
    // Where m moved from -inf in all lanes, o is not set yet.
    if V.anyUnequal(V.whereEqual(before, minusInfinity, maximum, before), maximum) {
      rescale(state.output, lane: lane, rows: state.outputRows, correction)
    }
  }
}

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
  _ panel: PanelScores<V.Scalar>, _ column: UnsafeMutablePointer<V.Scalar>, _ reference: V, _: V.Type
) -> V {
  let stride = panel.scores.stride
  var even = V.zero
  var odd = V.zero
  var key = panel.firstKey
  while key &+ 2 <= panel.endKey {
    let first = exp2(V.load(column + key &* stride) - reference)
    let second = exp2(V.load(column + (key &+ 1) &* stride) - reference)
    first.store(column + key &* stride)
    second.store(column + (key &+ 1) &* stride)
    even = even + first
    odd = odd + second
    key &+= 2
  }
  if key < panel.endKey {
    let last = exp2(V.load(column + key &* stride) - reference)
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

/// The softmax's derivative for one panel (docs/Algorithm.md, "Backward"):
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
    let delta = V.load(gradient.delta + lane)
    for key in panel.firstKey..<panel.endKey {
      let score = panel.scores.base + (key &* panel.scores.stride &+ lane)
      let slot = gradient.gradient.base + (key &* gradient.gradient.stride &+ lane)
      var p = exp2(V.load(score) - logSumExp)
      var dS = p * (V.load(slot) - delta)
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
