/// 2^x for x <= 0, the only exponential of attention: scores are kept in base-2 units, so that exp needs no product.
///
/// 2^x = 2^n * 2^r with n = round(x), |r| <= 1/2. Rounding is the addition of a constant that pushes the fraction out
/// of the significand; the same sum then holds n in its low bits, which become the exponent of 2^n. Exactly 1 at x = 0
/// (rows whose maximum did not move are rescaled by exactly 1) and exactly 0 at -inf; results below the smallest normal
/// number are 0. NaN stays NaN.
@inline(__always)
func exp2<V: LaneVector>(_ x: V) -> V {
  let shift = V(repeating: V.roundingShift)
  // maximum(bound, x) and not maximum(x, bound): the second operand survives a NaN.
  let bounded = V.maximum(V(repeating: V.smallestExponent), x)
  let shifted = bounded + shift
  let fraction = bounded - (shifted - shift)
  return V.exp2Polynomial(fraction) * V.powerOfTwo(shifted: shifted)
}

// Minimax polynomials for the relative error under the constraint p(0) = 1: scripts/exp2_coefficients.py.

extension SIMD16 where Scalar == Float {
  /// Degree 6, error 2.6e-9, well under half an ulp (6e-8): rounding dominates.
  @inline(__always)
  static func exp2Polynomial(_ r: Self) -> Self {
    var p = Self(repeating: 1.55946770151054106e-4)
    p = fma(p, r, Self(repeating: 1.34066438474800602e-3))
    p = fma(p, r, Self(repeating: 9.61769297614318723e-3))
    p = fma(p, r, Self(repeating: 5.55031055120698058e-2))
    p = fma(p, r, Self(repeating: 2.40226527828761768e-1))
    p = fma(p, r, Self(repeating: 6.93147214967884963e-1))
    return fma(p, r, Self(repeating: 1))
  }
}

extension SIMD8 where Scalar == Double {
  /// Degree 11, error 1.8e-17, well under half an ulp (1.1e-16).
  @inline(__always)
  static func exp2Polynomial(_ r: Self) -> Self {
    var p = Self(repeating: 4.07807178609287042e-10)
    p = fma(p, r, Self(repeating: 7.07257039454079943e-9))
    p = fma(p, r, Self(repeating: 1.01806476605730693e-7))
    p = fma(p, r, Self(repeating: 1.32154426754528552e-6))
    p = fma(p, r, Self(repeating: 1.52527273851897748e-5))
    p = fma(p, r, Self(repeating: 1.54035304415718501e-4))
    p = fma(p, r, Self(repeating: 1.33335581534399697e-3))
    p = fma(p, r, Self(repeating: 9.61812910760700262e-3))
    p = fma(p, r, Self(repeating: 5.55041086647903945e-2))
    p = fma(p, r, Self(repeating: 2.40226506959100980e-1))
    p = fma(p, r, Self(repeating: 6.93147180559945697e-1))
    return fma(p, r, Self(repeating: 1))
  }
}
