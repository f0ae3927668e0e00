import Testing

@testable import SwiftAttn

/// Bad calls of the layer: each names the argument, and nothing is written.
@Suite struct LayerErrorTests {
  /// A call of forward and backward, of views that nothing may read; what may be written is real memory.
  struct Call: ~Copyable {
    var arguments: LayerArguments
    var out: TensorView
    var weights: TensorView?
    var saved: UnsafeMutableRawBufferPointer
    var outGradient = fakeView([2, 3, 9], address: 0x80_0000)
    var gradients = LayerGradients()
  }

  enum Operation { case forward, backward, both }

  struct BadCall: Sendable {
    var on = Operation.both
    let kind: AttentionError.Kind
    let text: String
    let change: @Sendable (inout Call) -> Void
  }

  private static let lengths = (query: 3, key: 5)
  private static let shapes: [LayerParameter: [Int]] = [
    .queryWeight: [16, 6], .keyWeight: [8, 5], .valueWeight: [6, 7], .outWeight: [9, 12], .queryBias: [16],
    .keyBias: [8], .valueBias: [6], .outBias: [9], .keyToken: [8], .valueToken: [6],
  ]

  /// Four heads of 4 numbers, two of keys and values of 4 and 3; every operand elsewhere.
  private func withCall(_ body: (inout Call) -> Void) {
    var parameters = LayerParameterViews()
    for (parameter, shape) in Self.shapes {
      parameters[parameter] = fakeView(shape, address: 0x10_0000 + 0x1000 * parameter.rawValue)
    }
    var arguments = LayerArguments(
      headsQ: 4, headsKV: 2, parameters: parameters, query: fakeView([2, 3, 6], address: 0x20_0000))
    arguments.key = fakeView([2, 5, 5], address: 0x21_0000)
    arguments.value = fakeView([2, 5, 7], address: 0x22_0000)
    arguments.mask = fakeView([2, 4, 3, 5], type: .bool, address: 0x23_0000)
    arguments.bias = fakeView([4, 3, 5], address: 0x24_0000)
    arguments.rope = Rope()
    arguments.addsZeroToken = true
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 15, alignment: 64)
    defer { memory.deallocate() }
    for i in memory.indices { memory[i] = 0xA5 }
    func output(_ shape: [Int], _ place: Int) -> TensorView {
      fakeView(shape, address: Int(bitPattern: memory.baseAddress) + (place << 10))
    }
    var call = Call(
      arguments: arguments, out: output([2, 3, 9], 16), weights: output([2, 3, 7], 17),
      saved: UnsafeMutableRawBufferPointer(rebasing: memory[..<(16 << 10)]))
    call.gradients.query = output([2, 3, 6], 18)
    call.gradients.key = output([2, 5, 5], 19)
    call.gradients.value = output([2, 5, 7], 20)
    call.gradients.bias = output([4, 3, 5], 21)
    for (parameter, shape) in Self.shapes {
      call.gradients.parameters[parameter] = output(shape, 22 + parameter.rawValue)
    }
    body(&call)
    #expect(memory.allSatisfy { $0 == 0xA5 }, "something was written")
  }

  private static func argument(
    _ text: String, on operation: Operation = .both, _ change: @escaping @Sendable (inout Call) -> Void
  ) -> BadCall { BadCall(on: operation, kind: .invalidArgument, text: text, change: change) }

  private static func shape(
    _ text: String, on operation: Operation = .both, _ change: @escaping @Sendable (inout Call) -> Void
  ) -> BadCall { BadCall(on: operation, kind: .invalidShape, text: text, change: change) }

  private static func type(
    _ text: String, on operation: Operation = .both, _ change: @escaping @Sendable (inout Call) -> Void
  ) -> BadCall { BadCall(on: operation, kind: .invalidElementType, text: text, change: change) }

  private static let inputs: [BadCall] = [
    shape("query must have a rank from 2 to 7, but has shape (6,)") { $0.arguments.query = fakeView([6]) },
    shape("query must have a rank from 2 to 7, but has shape ()") { $0.arguments.query = fakeView([]) },
    shape("query must have a rank from 2 to 7, but has shape (1, 1, 1, 1, 1, 2, 3, 6)") {
      $0.arguments.query = fakeView([1, 1, 1, 1, 1, 2, 3, 6])
    },
    type("query has dtype int32 but must have float32") {
      $0.arguments.query = fakeView([2, 3, 6], type: .int32)
    },
    type("key has dtype float64 but must have float32") { $0.arguments.key = fakeView([2, 5, 5], type: .float64) },
    type("value has dtype bool but must have float32") { $0.arguments.value = fakeView([2, 5, 7], type: .bool) },
    type("query has dtype float64 but must have float32") { $0.arguments.query = fakeView([2, 3, 6], type: .float64) },
    shape("key has rank 2 but query has rank 3; its shape is (5, 5)") { $0.arguments.key = fakeView([5, 5]) },
    shape("value has rank 4 but query has rank 3; its shape is (2, 1, 5, 7)") {
      $0.arguments.value = fakeView([2, 1, 5, 7])
    },
    shape("key has batch dimensions unlike query's: shapes (1, 5, 5) and (2, 3, 6)") {
      $0.arguments.key = fakeView([1, 5, 5])
    },
    shape("value has batch dimensions unlike query's: shapes (3, 5, 7) and (2, 3, 6)") {
      $0.arguments.value = fakeView([3, 5, 7])
    },
    shape("value has length 4 but key has 5") { $0.arguments.value = fakeView([2, 4, 7]) },
    shape("value has length 5 but key has 3") { $0.arguments.key = nil },
    shape("key has width 5 but the layer takes 8: shapes (2, 5, 5) and key_weight (8, 8)") {
      $0.arguments.parameters[.keyWeight] = fakeView([8, 8])
    },
    shape("query has width 7 but the layer takes 6: shapes (2, 3, 7) and query_weight (16, 6)") {
      $0.arguments.query = fakeView([2, 3, 7])
    },
    shape("value has width 8 but the layer takes 7: shapes (2, 5, 8) and value_weight (6, 7)") {
      $0.arguments.value = fakeView([2, 5, 8])
    },
    shape("query has a negative length: shape (2, -3, 6)") { $0.arguments.query = fakeView([2, -3, 6]) },
    argument("key has no data: its pointer is NULL") { $0.arguments.key?.data = nil },
    argument("value is misaligned: its data must lie at a multiple of 4 bytes") {
      $0.arguments.value = fakeView([2, 5, 7], address: 0x22_0002)
    },
    shape("query has stride 6, which is not a multiple of its 4-byte elements") {
      $0.arguments.query.strides[1] = 6
    },
    shape("key reaches beyond the address space: shape (2, 5, 5)") { $0.arguments.key?.strides[1] = 1 << 61 },
    type("mask has dtype float32 but must be bool; pass an additive float mask as bias") {
      $0.arguments.mask = fakeView([3, 5])
    },
    shape("mask has shape (3, 6), which does not broadcast to (..., Hq, Sq, Sk) = (2, 4, 3, 5)") {
      $0.arguments.mask = fakeView([3, 6], type: .bool)
    },
    shape("mask has shape (2, 3, 5), which does not broadcast to (..., Hq, Sq, Sk) = (2, 4, 3, 5)") {
      $0.arguments.mask = fakeView([2, 3, 5], type: .bool)
    },
    // The layer's own keys are no business of mask and bias.
    shape("bias has shape (3, 7), which does not broadcast to (..., Hq, Sq, Sk) = (2, 4, 3, 5)", on: .forward) {
      $0.arguments.bias = fakeView([3, 7])
    },
    type("bias has dtype float64 but must have float32", on: .forward) {
      $0.arguments.bias = fakeView([4, 3, 5], type: .float64)
    },
    type("key_lengths has dtype float32 but must be int32 or int64") { $0.arguments.keyLengths = fakeView([2]) },
    shape("key_lengths has shape (3,) but must have (2,)") { $0.arguments.keyLengths = fakeView([3], type: .int64) },
  ]

  private static let parameters: [BadCall] =
    shapes.keys.filter { $0.rawValue < 4 }.map { weight in
      argument("\(weight.name) is missing") { $0.arguments.parameters[weight] = nil }
    }
    + shapes.map { parameter, lengths in
      // The layer's dtype is that of its first weight.
      let text =
        parameter == .queryWeight
        ? "query has dtype float32 but must have float64"
        : "\(parameter.name) has dtype float64 but must have float32"
      return type(text) { $0.arguments.parameters[parameter] = fakeView(lengths, type: .float64) }
    }
    + [
      type("query_weight has dtype int32; a layer takes float32 or float64") {
        $0.arguments.parameters[.queryWeight] = fakeView([8, 6], type: .int32)
      }
    ]
    + shapes.filter { $0.key.rawValue < 4 }.map { weight, lengths in
      shape("\(weight.name) has shape (\(lengths[0]),) but must have two dimensions") {
        $0.arguments.parameters[weight] = fakeView([lengths[0]])
      }
    }
    + shapes.filter { $0.key.rawValue >= 4 }.map { vector, lengths in
      shape("\(vector.name) has shape (\(lengths[0] + 1),) but must have (\(lengths[0]),)") {
        $0.arguments.parameters[vector] = fakeView([lengths[0] + 1])
      }
    }
    + [
      shape("query_weight has 18 rows, which 4 heads do not divide: shape (18, 6)") {
        $0.arguments.parameters[.queryWeight] = fakeView([18, 6])
      },
      shape("query_weight has 0 rows, which 4 heads do not divide: shape (0, 6)") {
        $0.arguments.parameters[.queryWeight] = fakeView([0, 6])
      },
      shape("value_weight has 7 rows, which 2 heads do not divide: shape (7, 7)") {
        $0.arguments.parameters[.valueWeight] = fakeView([7, 7])
      },
      shape("key_weight has shape (16, 5) but must have 8 rows, the heads' width") {
        $0.arguments.parameters[.keyWeight] = fakeView([16, 5])
      },
      shape("out_weight has shape (9, 16) but must have 12 columns, the heads' width") {
        $0.arguments.parameters[.outWeight] = fakeView([9, 16])
      },
      shape("out_weight is too large: shape (1073741825, 12)") {
        $0.arguments.parameters[.outWeight] = fakeView([1 << 30 + 1, 12])
      },
      shape("value_weight has more elements than can be addressed: shape (4611686018427387904, 7)") {
        $0.arguments.parameters[.valueWeight] = fakeView([1 << 62, 7])
      },
      argument("num_heads is 0, which must be a multiple of num_kv_heads, 2, and at least 1") {
        $0.arguments.headsQ = 0
      },
      argument("num_heads is -4, which must be a multiple of num_kv_heads, 2, and at least 1") {
        $0.arguments.headsQ = -4
      },
      argument("num_heads is 4, which must be a multiple of num_kv_heads, 3, and at least 1") {
        $0.arguments.headsKV = 3
      },
      argument("num_heads is 4, which must be a multiple of num_kv_heads, 0, and at least 1") {
        $0.arguments.headsKV = 0
      },
      argument("num_heads is 2147483648, which must be a multiple of num_kv_heads, 2, and at least 1") {
        $0.arguments.headsQ = 1 << 31
      },
      argument("key_token and value_token must be given both or neither") {
        $0.arguments.parameters[.keyToken] = nil
      },
      argument("key_token and value_token must be given both or neither") {
        $0.arguments.parameters[.valueToken] = nil
      },
      argument("rope has dim 3, which must be even, at least 2 and at most the head dim, 4") {
        $0.arguments.rope = Rope(dim: 3)
      },
      argument("rope has dim 6, which must be even, at least 2 and at most the head dim, 4") {
        $0.arguments.rope = Rope(dim: 6)
      },
      argument("rope has dim -2, which must be even, at least 2 and at most the head dim, 4") {
        $0.arguments.rope = Rope(dim: -2)
      },
      argument("rope has an offset beyond 2^53") { $0.arguments.rope = Rope(offset: 1 << 53 + 1) },
      argument("rope has an offset beyond 2^53") { $0.arguments.rope = Rope(offset: .min) },
      argument("rope has an offset beyond 2^53") { $0.arguments.rope = Rope(keyOffset: .max) },
    ]
    + [0, -1, .nan, .infinity].flatMap { number in
      [
        argument("rope has a base that is not finite and above 0") { $0.arguments.rope = Rope(base: number) },
        argument("rope has a scaling that is not finite and above 0") { $0.arguments.rope = Rope(scaling: number) },
      ]
    }

  private static let outputs: [BadCall] = [
    shape("out has shape (2, 3, 8) but must have (2, 3, 9)", on: .forward) { $0.out.shape[2] = 8 },
    type("out has dtype float64 but must have float32", on: .forward) { $0.out.type = .float64 },
    argument("out overlaps itself: two of its elements share memory", on: .forward) { $0.out.strides[0] = 4 },
    argument("out overlaps query in memory", on: .forward) { $0.out.data = $0.arguments.query.data },
    argument("out overlaps out_bias in memory", on: .forward) {
      $0.out.data = $0.arguments.parameters[.outBias]?.data
    },
    shape("weights has shape (2, 3, 5) but must have (2, 3, 7)", on: .forward) { $0.weights?.shape[2] = 5 },
    shape("weights has shape (2, 1, 3, 7) but must have (2, 4, 3, 7)", on: .forward) {
      $0.weights = fakeView([2, 1, 3, 7])
    },
    argument("weights overlaps out in memory", on: .forward) { $0.weights?.data = $0.out.data },
    argument("saved overlaps weights in memory", on: .forward) { $0.weights?.data = $0.saved.baseAddress },
    argument("saved is misaligned: it must lie at a multiple of 64 bytes") {
      $0.saved = UnsafeMutableRawBufferPointer(rebasing: $0.saved[32...])
    },
    argument("saved has 1763 bytes but needs 1764") {
      $0.saved = UnsafeMutableRawBufferPointer(rebasing: $0.saved[..<1763])
    },
    argument("saved has no memory") { $0.saved = UnsafeMutableRawBufferPointer(start: nil, count: 0) },
    argument("packed is misaligned: it must lie at a multiple of 64 bytes", on: .forward) {
      $0.arguments.packed = UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: 0x90_0020), count: 1 << 20)
    },
    argument("packed has 4095 bytes but needs 4096", on: .forward) {
      $0.arguments.packed = UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: 0x90_0000), count: 4095)
    },
    argument("packed has no memory", on: .forward) {
      $0.arguments.packed = UnsafeRawBufferPointer(start: nil, count: 0)
    },
    argument("saved overlaps packed in memory", on: .forward) {
      $0.arguments.packed = UnsafeRawBufferPointer($0.saved)
    },
    shape("dout has shape (2, 3, 6) but must have (2, 3, 9)", on: .backward) { $0.outGradient.shape[2] = 6 },
    type("dout has dtype float64 but must have float32", on: .backward) { $0.outGradient.type = .float64 },
    argument("a key gradient was asked for, but key was not given", on: .backward) {
      ($0.arguments.key, $0.arguments.value) = (nil, nil)
      $0.arguments.parameters[.keyWeight] = fakeView([8, 6])
      $0.arguments.parameters[.valueWeight] = fakeView([6, 6])
    },
    argument("a value gradient was asked for, but value was not given", on: .backward) {
      $0.arguments.value = nil
      $0.arguments.parameters[.valueWeight] = fakeView([6, 5])
    },
    argument("a bias gradient was asked for, but bias was not given", on: .backward) { $0.arguments.bias = nil },
    shape("query gradient has shape (2, 4, 6) but must have (2, 3, 6)", on: .backward) {
      $0.gradients.query?.shape[1] = 4
    },
    argument("key gradient overlaps saved in memory", on: .backward) {
      $0.gradients.key?.data = $0.saved.baseAddress
    },
    argument("value gradient overlaps key gradient in memory", on: .backward) {
      $0.gradients.value?.data = $0.gradients.key?.data
    },
    argument("bias gradient overlaps dout in memory", on: .backward) {
      $0.gradients.bias?.data = $0.outGradient.data
    },
    argument("out_weight gradient overlaps out_weight in memory", on: .backward) {
      $0.gradients.parameters[.outWeight]?.data = $0.arguments.parameters[.outWeight]?.data
    },
    argument("value_token gradient overlaps key_token gradient in memory", on: .backward) {
      let other = $0.gradients.parameters[.keyToken]?.data
      $0.gradients.parameters[.valueToken]?.data = other
    },
    argument("key_bias gradient overlaps itself: two of its elements share memory", on: .backward) {
      $0.gradients.parameters[.keyBias]?.strides[0] = 0
    },
  ]

  private static let optional = shapes.filter { $0.key.rawValue >= 4 && $0.key.rawValue < 8 }
  private static let gradients: [BadCall] =
    shapes.map { parameter, lengths in
      shape("\(parameter.gradientName) has shape (3,) but must have \(text(lengths))", on: .backward) {
        $0.gradients.parameters[parameter] = fakeView([3])
      }
    }
    + shapes.map { parameter, lengths in
      type("\(parameter.gradientName) has dtype float64 but must have float32", on: .backward) {
        $0.gradients.parameters[parameter] = fakeView(lengths, type: .float64)
      }
    }
    + optional.keys.map { parameter in
      argument("a \(parameter.gradientName) was asked for, but \(parameter.name) was not given", on: .backward) {
        $0.arguments.parameters[parameter] = nil
      }
    }
    + [
      argument("a key_token gradient was asked for, but key_token was not given", on: .backward) {
        ($0.arguments.parameters[.keyToken], $0.arguments.parameters[.valueToken]) = (nil, nil)
      }
    ]

  private static func text(_ lengths: [Int]) -> String {
    lengths.count == 1 ? "(\(lengths[0]),)" : "(\(lengths[0]), \(lengths[1]))"
  }

  @Test("each bad argument is named", arguments: ["inputs", "parameters", "outputs", "gradients"])
  func judged(_ kind: String) {
    let tables = [
      "inputs": Self.inputs, "parameters": Self.parameters, "outputs": Self.outputs, "gradients": Self.gradients,
    ]
    for bad in tables[kind] ?? [] {
      if bad.on != .backward {
        expect(bad) { (call: borrowing Call) throws(AttentionError) in
          try LayerOperator.forward(call.arguments, out: call.out, weights: call.weights, saved: call.saved)
        }
      }
      if bad.on != .forward {
        expect(bad) { (call: borrowing Call) throws(AttentionError) in
          try LayerOperator.backward(
            call.arguments, saved: UnsafeRawBufferPointer(call.saved), outGradient: call.outGradient,
            into: call.gradients)
        }
      }
    }
  }

  private static let packing: [BadCall] =
    shapes.keys.filter(\.isWeight).flatMap { weight in
      [
        argument("\(weight.name) is missing") { $0.arguments.parameters[weight] = nil },
        shape("\(weight.name) has shape (3,) but must have two dimensions") {
          $0.arguments.parameters[weight] = fakeView([3])
        },
        argument("packed overlaps \(weight.name) in memory") {
          $0.arguments.parameters[weight] = fakeView([9, 12], address: Int(bitPattern: $0.saved.baseAddress))
        },
      ]
    } + [
      type("query_weight has dtype bool; a layer takes float32 or float64") {
        $0.arguments.parameters[.queryWeight]?.type = .bool
      },
      type("key_weight has dtype float64 but must have float32") {
        $0.arguments.parameters[.keyWeight]?.type = .float64
      },
      argument("packed has no memory") { $0.saved = UnsafeMutableRawBufferPointer(start: nil, count: 0) },
      argument("packed is misaligned: it must lie at a multiple of 64 bytes") {
        $0.saved = UnsafeMutableRawBufferPointer(rebasing: $0.saved[4...])
      },
      argument("packed has 4095 bytes but needs 4096") {
        $0.saved = UnsafeMutableRawBufferPointer(rebasing: $0.saved[..<4095])
      },
    ]

  @Test("each bad argument of packing is named")
  func packingJudged() {
    for bad in Self.packing {
      expect(bad) { (call: borrowing Call) throws(AttentionError) in
        try LayerOperator.pack(call.arguments.parameters, into: call.saved)
      }
    }
  }

  private func expect(_ bad: BadCall, _ operation: (borrowing Call) throws(AttentionError) -> Void) {
    withCall { call in
      bad.change(&call)
      do throws(AttentionError) {
        try operation(call)
        Issue.record("accepted, instead of: \(bad.text)")
      } catch {
        #expect(error.kind == bad.kind, "\(bad.text)")
        #expect(error.description == bad.text)
      }
    }
  }
}
