import CSwiftAttnShims

/// The rounding and denormal modes, the traps and the flags raised so far that a thread had when it came to this
/// library.
///
/// A call computes in the processor's default ones, from its plan on, so that results do not depend on what the caller
/// had set, and no inexact result traps. Workers have them too: they inherit them from the call that creates them.
///
///     let environment = FloatEnvironment.enterDefault()
///     defer { environment.restore() }
struct FloatEnvironment {
  private let state: UInt64

  static func enterDefault() -> FloatEnvironment {
    let environment = FloatEnvironment(state: sa_float_environment())
    sa_set_float_environment(sa_default_float_environment())
    return environment
  }

  func restore() { sa_set_float_environment(state) }
}
