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
public func swiftattn_mha_forward(
  _ mha: UnsafePointer<swiftattn_mha>!, _ out: UnsafePointer<swiftattn_tensor>!,
  _ weights: UnsafePointer<swiftattn_tensor>!, _ saved: UnsafeMutableRawPointer!, _ saved_bytes: Int
) -> swiftattn_status {
  reportingStatus { () throws(AttentionError) in
    let arguments = try LayerArguments(mha)
    let out = try TensorView(required: out, "out")
    let weights = try TensorView(optional: weights, "weights")
    try LayerOperator.forward(
      arguments, out: out, weights: weights,
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
    let key = try TensorView(optional: fields.key, "key")
    let value = try TensorView(optional: fields.value, "value")
    let mask = try TensorView(optional: fields.mask, "mask")
    let bias = try TensorView(optional: fields.bias, "bias")
    let keyLengths = try TensorView(optional: fields.key_lengths, "key_lengths")
    let rope = try fields.rope.map { (rope) throws(AttentionError) in try Rope(rope) }
    guard let parameters = fields.parameters else { throw AttentionError(.invalidArgument, "parameters is NULL") }
    self.init(
      headsQ: Int(fields.num_heads), headsKV: Int(fields.num_kv_heads == 0 ? fields.num_heads : fields.num_kv_heads),
      parameters: try LayerParameterViews(parameters, areGradients: false),
      query: try TensorView(required: fields.query, "query"))
    self.key = key
    self.value = value
    self.mask = mask
    self.bias = bias
    self.keyLengths = keyLengths
    self.rope = rope
    self.causal = causal
    addsZeroToken = fields.add_zero_attn != 0
    interruptCheck = InterruptCheck(fields.interrupted, fields.interrupted_context)
  }
}

extension LayerParameterViews {
  init(_ parameters: UnsafePointer<swiftattn_mha_parameters>, areGradients: Bool) throws(AttentionError) {
    let fields = try known(parameters, areGradients ? "gradients.parameters" : "parameters")
    func view(
      _ tensor: UnsafePointer<swiftattn_tensor>?, _ parameter: LayerParameter
    ) throws(AttentionError) -> TensorView? {
      try TensorView(optional: tensor, areGradients ? parameter.gradientName : parameter.name)
    }
    self.init()
    self[.queryWeight] = try view(fields.query_weight, .queryWeight)
    self[.keyWeight] = try view(fields.key_weight, .keyWeight)
    self[.valueWeight] = try view(fields.value_weight, .valueWeight)
    self[.outWeight] = try view(fields.out_weight, .outWeight)
    self[.queryBias] = try view(fields.query_bias, .queryBias)
    self[.keyBias] = try view(fields.key_bias, .keyBias)
    self[.valueBias] = try view(fields.value_bias, .valueBias)
    self[.outBias] = try view(fields.out_bias, .outBias)
    self[.keyToken] = try view(fields.key_token, .keyToken)
    self[.valueToken] = try view(fields.value_token, .valueToken)
  }
}

extension LayerGradients {
  init(_ gradients: UnsafePointer<swiftattn_mha_gradients>?) throws(AttentionError) {
    let fields = try known(gradients, "gradients")
    self.init()
    query = try TensorView(optional: fields.query, "query gradient")
    key = try TensorView(optional: fields.key, "key gradient")
    value = try TensorView(optional: fields.value, "value gradient")
    bias = try TensorView(optional: fields.bias, "bias gradient")
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
