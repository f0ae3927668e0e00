public import CSwiftAttn
import SwiftAttn

// The layer's functions of swiftattn.h, which documents them.

@c @implementation
public func swiftattn_mha_saved_bytes(
  _ mha: UnsafePointer<swiftattn_mha>!, _ bytes: UnsafeMutablePointer<Int>!
) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    let arguments = try LayerArguments(mha)
    guard let bytes else { throw AttentionError(.invalidArgument, "bytes is NULL") }
    bytes.pointee = try LayerOperator.savedBytes(arguments)
  }
}

@c @implementation
public func swiftattn_mha_packed_bytes(
  _ parameters: UnsafePointer<swiftattn_mha_parameters>!, _ bytes: UnsafeMutablePointer<Int>!
) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    let parameters = try LayerParameterViews(parameters, areGradients: false)
    guard let bytes else { throw AttentionError(.invalidArgument, "bytes is NULL") }
    bytes.pointee = try LayerOperator.packedBytes(parameters)
  }
}

@c @implementation
public func swiftattn_mha_pack(
  _ parameters: UnsafePointer<swiftattn_mha_parameters>!, _ packed: UnsafeMutableRawPointer!, _ packed_bytes: Int
) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    let parameters = try LayerParameterViews(parameters, areGradients: false)
    guard let packed else { throw AttentionError(.invalidArgument, "packed is NULL") }
    try LayerOperator.pack(
      parameters, into: UnsafeMutableRawBufferPointer(start: packed, count: max(packed_bytes, 0)))
  }
}

@c @implementation
public func swiftattn_mha_forward(
  _ mha: UnsafePointer<swiftattn_mha>!, _ out: UnsafePointer<swiftattn_tensor>!,
  _ weights: UnsafePointer<swiftattn_tensor>!, _ saved: UnsafeMutableRawPointer!, _ saved_bytes: Int
) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    let arguments = try LayerArguments(mha)
    let out = try TensorView(required: out, "out")
    var weightsView: TensorView?
    try weightsView.read(weights, "weights")
    try LayerOperator.forward(
      arguments, out: out, weights: weightsView,
      saved: saved.map { UnsafeMutableRawBufferPointer(start: $0, count: max(saved_bytes, 0)) })
  }
}

@c @implementation
public func swiftattn_mha_backward(
  _ mha: UnsafePointer<swiftattn_mha>!, _ saved: UnsafeRawPointer!, _ saved_bytes: Int,
  _ dout: UnsafePointer<swiftattn_tensor>!, _ gradients: UnsafePointer<swiftattn_mha_gradients>!
) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    let arguments = try LayerArguments(mha)
    guard let saved else { throw AttentionError(.invalidArgument, "saved is NULL") }
    try LayerOperator.backward(
      arguments, saved: UnsafeRawBufferPointer(start: saved, count: max(saved_bytes, 0)),
      outGradient: try TensorView(required: dout, "dout"), into: try LayerGradients(gradients))
  }
}

extension LayerArguments {
  init(_ mha: UnsafePointer<swiftattn_mha>?) throws(AttentionError) {
    let fields = try known(mha, "mha")
    guard let causal = Causal(rawValue: fields.causal) else {
      throw AttentionError(.invalidArgument, "causal has the unknown value \(Int(fields.causal))")
    }
    var arguments = LayerArguments(
      headsQ: Int(fields.num_heads), headsKV: Int(fields.num_kv_heads == 0 ? fields.num_heads : fields.num_kv_heads),
      parameters: try LayerParameterViews(fields.parameters, areGradients: false),
      query: try TensorView(required: fields.query, "query"))
    try arguments.key.read(fields.key, "key")
    try arguments.value.read(fields.value, "value")
    try arguments.mask.read(fields.mask, "mask")
    try arguments.bias.read(fields.bias, "bias")
    try arguments.keyLengths.read(fields.key_lengths, "key_lengths")
    if let rope = fields.rope { arguments.rope = try Rope(rope) }
    arguments.causal = causal
    arguments.addsZeroToken = fields.add_zero_attn != 0
    arguments.interruptCheck = InterruptCheck(fields.interrupted, fields.interrupted_context)
    arguments.packed = fields.packed.map {
      UnsafeRawBufferPointer(start: $0, count: max(fields.packed_bytes, 0))
    }
    self = arguments
  }
}

extension LayerParameterViews {
  init(_ parameters: UnsafePointer<swiftattn_mha_parameters>?, areGradients: Bool) throws(AttentionError) {
    let fields = try known(parameters, areGradients ? "gradients.parameters" : "parameters")
    self.init()
    try read(fields.query_weight, .queryWeight, areGradients)
    try read(fields.key_weight, .keyWeight, areGradients)
    try read(fields.value_weight, .valueWeight, areGradients)
    try read(fields.out_weight, .outWeight, areGradients)
    try read(fields.query_bias, .queryBias, areGradients)
    try read(fields.key_bias, .keyBias, areGradients)
    try read(fields.value_bias, .valueBias, areGradients)
    try read(fields.out_bias, .outBias, areGradients)
    try read(fields.key_token, .keyToken, areGradients)
    try read(fields.value_token, .valueToken, areGradients)
  }

  @inline(__always)
  private mutating func read(
    _ tensor: UnsafePointer<swiftattn_tensor>?, _ parameter: LayerParameter, _ areGradients: Bool
  ) throws(AttentionError) {
    guard let tensor else { return }
    self[parameter] = try TensorView(required: tensor, areGradients ? parameter.gradientName : parameter.name)
  }
}

extension LayerGradients {
  init(_ gradients: UnsafePointer<swiftattn_mha_gradients>?) throws(AttentionError) {
    let fields = try known(gradients, "gradients")
    self.init()
    try query.read(fields.query, "query gradient")
    try key.read(fields.key, "key gradient")
    try value.read(fields.value, "value gradient")
    try bias.read(fields.bias, "bias gradient")
    if let parameters = fields.parameters {
      self.parameters = try LayerParameterViews(parameters, areGradients: true)
    }
  }
}

extension Rope {
  init(_ rope: UnsafePointer<swiftattn_rope>) throws(AttentionError) {
    let fields = try known(rope, "rope")
    self.init(
      dim: fields.dim == 0 ? nil : Int(fields.dim), base: fields.base, scaling: fields.scaling,
      interleaved: fields.interleaved != 0, offset: Int(fields.offset), keyOffset: Int(fields.key_offset))
  }
}
