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
    try AttentionOperator.forward(
      arguments, out: try TensorView(required: out, "out"), lse: try TensorView(optional: lse, "lse"))
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
    let mask = try TensorView(optional: fields.mask, "mask")
    let bias = try TensorView(optional: fields.bias, "bias")
    let keyLengths = try TensorView(optional: fields.key_lengths, "key_lengths")
    let queryLengths = try TensorView(optional: fields.query_lengths, "query_lengths")
    self.init(
      query: try TensorView(required: fields.query, "query"), key: try TensorView(required: fields.key, "key"),
      value: try TensorView(required: fields.value, "value"))
    self.mask = mask
    self.bias = bias
    self.keyLengths = keyLengths
    self.queryLengths = queryLengths
    self.causal = causal
    scale = fields.scale?.pointee
    interruptCheck = InterruptCheck(fields.interrupted, fields.interrupted_context)
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
    self.init(
      query: try TensorView(optional: fields.query, "query gradient"),
      key: try TensorView(optional: fields.key, "key gradient"),
      value: try TensorView(optional: fields.value, "value gradient"),
      bias: try TensorView(optional: fields.bias, "bias gradient"))
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

  /// Nil for NULL.
  @inline(never)
  init?(optional tensor: UnsafePointer<swiftattn_tensor>?, _ name: StaticString) throws(AttentionError) {
    guard let tensor else { return nil }
    try self.init(required: tensor, name)
  }
}
