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
    var p = Self(repeating: 1.5594678161326619e-4)
    p = fma(p, r, Self(repeating: 1.3406643902351759e-3))
    p = fma(p, r, Self(repeating: 9.6176929729930623e-3))
    p = fma(p, r, Self(repeating: 5.5503105510137972e-2))
    p = fma(p, r, Self(repeating: 2.4022652782887738e-1))
    p = fma(p, r, Self(repeating: 6.9314721496802790e-1))
    return fma(p, r, Self(repeating: 1))
  }
}

extension SIMD8 where Scalar == Double {
  /// Degree 11, error 1.8e-17, well under half an ulp (1.1e-16).
  @inline(__always)
  static func exp2Polynomial(_ r: Self) -> Self {
    var p = Self(repeating: 4.0780719295883367e-10)
    p = fma(p, r, Self(repeating: 7.0725704128144235e-9))
    p = fma(p, r, Self(repeating: 1.0180647659234139e-7))
    p = fma(p, r, Self(repeating: 1.3215442675329822e-6))
    p = fma(p, r, Self(repeating: 1.5252727385193868e-5))
    p = fma(p, r, Self(repeating: 1.5403530441572130e-4))
    p = fma(p, r, Self(repeating: 1.3333558153439965e-3))
    p = fma(p, r, Self(repeating: 9.6181291076070024e-3))
    p = fma(p, r, Self(repeating: 5.5504108664790395e-2))
    p = fma(p, r, Self(repeating: 2.4022650695910098e-1))
    p = fma(p, r, Self(repeating: 6.9314718055994570e-1))
    return fma(p, r, Self(repeating: 1))
  }
}
