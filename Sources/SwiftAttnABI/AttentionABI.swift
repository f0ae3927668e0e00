public import CSwiftAttn
import SwiftAttn

// The functions of swiftattn.h, which documents them: a signature that differs from the header does not compile.

@c @implementation
public func swiftattn_attention_forward(
  _ attention: UnsafePointer<swiftattn_attention>!, _ out: UnsafePointer<swiftattn_tensor>!,
  _ lse: UnsafePointer<swiftattn_tensor>!
) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    let arguments = try AttentionArguments(attention)
    var lseView: TensorView?
    try lseView.read(lse, "lse")
    try AttentionOperator.forward(arguments, out: try TensorView(required: out, "out"), lse: lseView)
  }
}

@c @implementation
public func swiftattn_attention_backward(
  _ attention: UnsafePointer<swiftattn_attention>!, _ out: UnsafePointer<swiftattn_tensor>!,
  _ lse: UnsafePointer<swiftattn_tensor>!, _ dout: UnsafePointer<swiftattn_tensor>!,
  _ gradients: UnsafePointer<swiftattn_attention_gradients>!
) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    let arguments = try AttentionArguments(attention)
    let results = AttentionResults(
      out: try TensorView(required: out, "out"), lse: try TensorView(required: lse, "lse"),
      outGradient: try TensorView(required: dout, "dout"))
    try AttentionOperator.backward(arguments, results, into: try AttentionGradients(gradients))
  }
}

extension AttentionArguments {
  init(_ attention: UnsafePointer<swiftattn_attention>?) throws(AttentionError) {
    let fields = try known(attention, "attention")
    guard let causal = Causal(rawValue: fields.causal) else {
      throw AttentionError(.invalidArgument, "causal has the unknown value \(Int(fields.causal))")
    }
    var arguments = AttentionArguments(
      query: try TensorView(required: fields.query, "query"), key: try TensorView(required: fields.key, "key"),
      value: try TensorView(required: fields.value, "value"))
    try arguments.mask.read(fields.mask, "mask")
    try arguments.bias.read(fields.bias, "bias")
    try arguments.keyLengths.read(fields.key_lengths, "key_lengths")
    try arguments.queryLengths.read(fields.query_lengths, "query_lengths")
    arguments.causal = causal
    arguments.scale = fields.scale?.pointee
    arguments.interruptCheck = InterruptCheck(fields.interrupted, fields.interrupted_context)
    self = arguments
  }
}

extension InterruptCheck {
  /// Nil without a callback.
  init?(_ interrupted: (@convention(c) (UnsafeMutableRawPointer?) -> Int32)?, _ context: UnsafeMutableRawPointer?) {
    guard let interrupted else { return nil }
    self.init(context: context, isInterrupted: interrupted)
  }
}

extension AttentionGradients {
  init(_ gradients: UnsafePointer<swiftattn_attention_gradients>?) throws(AttentionError) {
    let fields = try known(gradients, "gradients")
    self.init()
    try query.read(fields.query, "query gradient")
    try key.read(fields.key, "key gradient")
    try value.read(fields.value, "value gradient")
    try bias.read(fields.bias, "bias gradient")
  }
}

/// The fields of a struct that begins with its size, which must be this version's.
func known<Fields>(_ pointer: UnsafePointer<Fields>?, _ name: StaticString) throws(AttentionError) -> Fields {
  guard let pointer else { throw AttentionError(.invalidArgument, "\(name) is NULL") }
  let size = UnsafeRawPointer(pointer).load(as: UInt.self)
  guard size == UInt(MemoryLayout<Fields>.size) else {
    throw AttentionError(.invalidArgument, "\(name) has the unknown struct_size \(Int(clamping: size))")
  }
  return pointer.pointee
}

extension TensorView {
  @inline(never)
  init(required tensor: UnsafePointer<swiftattn_tensor>?, _ name: StaticString) throws(AttentionError) {
    guard let tensor else { throw AttentionError(.invalidArgument, "\(name) is NULL") }
    let fields = tensor.pointee
    guard let type = ElementType(rawValue: fields.dtype) else {
      throw AttentionError(.invalidElementType, "\(name) has the unknown dtype \(Int(fields.dtype))")
    }
    guard 0...Shape.maxRank ~= Int(fields.rank) else {
      throw AttentionError(.invalidShape, "\(name) has rank \(Int(fields.rank)); at most \(Shape.maxRank) is supported")
    }
    var shape = Shape(rank: Int(fields.rank))
    var strides = Shape(rank: Int(fields.rank))
    withUnsafePointer(to: fields.shape) { lengths in
      withUnsafePointer(to: fields.strides) { steps in
        lengths.withMemoryRebound(to: Int64.self, capacity: Shape.maxRank) { lengths in
          steps.withMemoryRebound(to: Int64.self, capacity: Shape.maxRank) { steps in
            for axis in 0..<shape.rank {
              shape[axis] = Int(lengths[axis])
              strides[axis] = Int(steps[axis])
            }
          }
        }
      }
    }
    self.init(data: fields.data, type: type, shape: shape, strides: strides)
  }
}

extension TensorView? {
  /// Stays nil for NULL.
  @inline(__always)
  mutating func read(_ tensor: UnsafePointer<swiftattn_tensor>?, _ name: StaticString) throws(AttentionError) {
    if let tensor { self = try TensorView(required: tensor, name) }
  }
}
