/// Which keys a causal query may see.
public enum Causal: Int32, Sendable {
  case none = 0
  /// Query i sees keys j <= i.
  case topLeft = 1
  /// Query i sees keys j <= i + Sk - Sq.
  case bottomRight = 2
}

/// Asked every few milliseconds of a long call, on the calling thread, whether to stop: not 0. A C function, which
/// needs no memory of Swift's.
public struct InterruptCheck {
  public var isInterrupted: @convention(c) (UnsafeMutableRawPointer?) -> Int32
  public var context: UnsafeMutableRawPointer?

  public init(
    context: UnsafeMutableRawPointer?, isInterrupted: @escaping @convention(c) (UnsafeMutableRawPointer?) -> Int32
  ) {
    self.context = context
    self.isInterrupted = isInterrupted
  }
}

/// The operands and options that forward and backward share, as views. Nothing has been judged yet: `AttentionPlan`
/// does.
///
/// Shapes: query (B..., Hq, Sq, D), key (B..., Hkv, Sk, D), value (B..., Hkv, Sk, Dv), ranks 2 (S, D), 3 (H, S, D) or
/// more; mask and bias broadcast to (B..., Hq, Sq, Sk); lengths (B...). Inputs may overlap each other, outputs neither
/// each other nor an input. A row that may attend to nothing, as any row when Sk is 0, has output 0, lse -inf and zero
/// gradients. Sums are accumulated in the operands' type. Calls may run on any threads at once. Not copyable, because
/// it is large.
public struct AttentionArguments: ~Copyable {
  public var query: TensorView
  public var key: TensorView
  public var value: TensorView
  /// bool, true means "may attend".
  public var mask: TensorView?
  /// The operands' type; added to the scaled scores. -inf masks.
  public var bias: TensorView?
  /// int32 or int64; keys at and past the length are masked.
  public var keyLengths: TensorView?
  /// int32 or int64; rows at and past the length attend to nothing.
  public var queryLengths: TensorView?
  /// Nil: 1/sqrt(D).
  public var scale: Double?
  public var causal = Causal.none
  public var interruptCheck: InterruptCheck?
  /// So many keys at the start are seen by every query, without bias: mask, bias, causality and lengths count from the
  /// key after them. A layer's learned and zero keys; fewer than a block's.
  var leadingKeys = 0

  public init(query: TensorView, key: TensorView, value: TensorView) {
    self.query = query
    self.key = key
    self.value = value
  }
}

/// What backward reads besides the arguments: forward's results and the gradient of its output.
public struct AttentionResults {
  public var out: TensorView
  public var lse: TensorView
  public var outGradient: TensorView

  public init(out: TensorView, lse: TensorView, outGradient: TensorView) {
    self.out = out
    self.lse = lse
    self.outGradient = outGradient
  }
}

/// Where backward writes; nil leaves a gradient out, and its work with it.
public struct AttentionGradients {
  public var query: TensorView?
  public var key: TensorView?
  public var value: TensorView?
  public var bias: TensorView?

  public init(
    query: TensorView? = nil, key: TensorView? = nil, value: TensorView? = nil, bias: TensorView? = nil
  ) {
    self.query = query
    self.key = key
    self.value = value
    self.bias = bias
  }
}
