import AttentionBlocks

/// Rotary positions (Su et al. 2021), value and derivative: the pair (a, b) of a row's numbers turns by its angle,
///   (a, b) = (a cos - b sin, a sin + b cos)
/// and the derivative is the turn back, the same with -sin.
@inline(never)
func rotate<Scalar: AttentionElement>(_ rows: RotaryRows<Scalar>, _: Scalar.Type) {
  for row in 0..<rows.rows {
    let base = rows.base + row &* rows.stride
    if rows.interleaved {
      rotate(base, step: 2, partner: 1, rows)
    } else {
      rotate(base, step: 1, partner: rows.pairs, rows)
    }
  }
}

/// Pair t is (step t, step t + partner).
@inline(__always)
private func rotate<Scalar: AttentionElement>(
  _ base: UnsafeMutablePointer<Scalar>, step: Int, partner: Int, _ rows: RotaryRows<Scalar>
) {
  for t in 0..<rows.pairs {
    let first = base + step &* t
    let (a, b) = (first[0], first[partner])
    first[0] = a * rows.cosines[t] - b * rows.sines[t]
    first[partner] = a * rows.sines[t] + b * rows.cosines[t]
  }
}
