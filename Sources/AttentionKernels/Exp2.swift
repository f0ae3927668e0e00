/// 2^x for x <= 0, the only exponential of attention: scores are kept in base-2 units, so that exp needs no product.
///
/// 2^x = 2^n * 2^r with n = round(x), |r| <= 1/2. Rounding is the addition of a constant that pushes the fraction out
/// of the significand; the same sum then holds n in its low bits, which become the exponent of 2^n. Exactly 1 at x = 0
/// (rows whose reference did not move are rescaled by exactly 1) and exactly 0 at -inf; results below the smallest
/// normal number are 0. NaN stays NaN.
@inline(__always)
func exp2<V: LaneVector>(_ x: V) -> V {
  exp2Shifted(x, shift: V(repeating: V.roundingShift), smallest: V(repeating: V.smallestExponent))
}

/// 2^(x - m) for whole m, with m already subtracted from the shift and added to the smallest exponent.
@inline(__always)
private func exp2Shifted<V: LaneVector>(_ x: V, shift: V, smallest: V) -> V {
  // maximum(bound, x) and not maximum(x, bound): the second operand survives a NaN.
  let bounded = V.maximum(smallest, x)
  let shifted = bounded + shift
  let fraction = bounded - (shifted - shift)
  return V.exp2Polynomial(fraction) * V.powerOfTwo(shifted: shifted)
}

/// 2^(x - m) for many x <= m and one whole m per lane, which costs no subtraction: m goes into the rounding shift and
/// the fraction of x is that of x - m. An m too large for the shift to stay exact is subtracted first, in its own lanes
/// only, so that a lane's bits do not depend on its neighbours.
struct Exp2Base<V: LaneVector> {
  private let shift: V
  private let smallest: V
  private let subtracted: V
  let isWithinShift: Bool

  @inline(__always)
  init(_ m: V) {
    let inShift = V.whereGreater(V(repeating: V.largestExactShift), m.magnitude, m, V.zero)
    shift = V(repeating: V.roundingShift) - inShift
    smallest = V(repeating: V.smallestExponent) + inShift
    subtracted = m - inShift
    isWithinShift = !V.anyUnequal(m, inShift)
  }

  /// `subtracts` may be false where `isWithinShift`; a constant, so that the subtraction is then not there.
  @inline(__always) func exp2(_ x: V, subtracts: Bool) -> V {
    exp2Shifted(subtracts ? x - subtracted : x, shift: shift, smallest: smallest)
  }
}

extension LaneVector {
  /// Numbers below this can be added to the rounding shift, and whole ones of at most it leave it exact.
  @inline(__always) static var largestExactShift: Scalar { roundingShift / 8 }
  @inline(__always) var magnitude: Self { Self.maximum(self, Self.zero - self) }

  /// The nearest whole number; numbers past `largestExactShift`, and infinities, as they are.
  @inline(__always) var rounded: Self {
    let shift = Self(repeating: Self.roundingShift)
    return Self.whereGreater(Self(repeating: Self.largestExactShift), magnitude, (self + shift) - shift, self)
  }
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
