import Testing

@testable import SwiftAttn

@Suite struct AttentionErrorTests {
  struct BadCall {
    let views: [TensorView]
    var change: (inout AttentionArguments) -> Void = { _ in }
    let kind: AttentionError.Kind
    let text: String
  }

  private static func good() -> [TensorView] { shapes([2, 4, 3, 8], [2, 2, 5, 8], [2, 2, 5, 6]) }

  /// Each bad call: what it is, the kind of error, and the sentence.
  private static var cases: [BadCall] {
    [
      BadCall(
        views: shapes([8], [8], [8]),
        kind: .invalidShape,
        text: "query must have rank 2 or more, but has shape (8,)"),
      BadCall(
        views: shapes([3, 8], [1, 5, 8], [5, 8]),
        kind: .invalidShape,
        text: "key has rank 3 but query has rank 2; its shape is (1, 5, 8)"),
      BadCall(
        views: shapes([3, 64], [5, 32], [5, 32]),
        kind: .invalidShape,
        text: "key has head_dim 32 but query has 64"),
      BadCall(
        views: shapes([3, 0], [5, 0], [5, 2]),
        kind: .invalidShape,
        text: "query has head_dim 0; it must be at least 1"),
      BadCall(
        views: shapes([3, 8], [5, 8], [6, 8]),
        kind: .invalidShape,
        text: "value has length 6 but key has 5"),
      BadCall(
        views: shapes([4, 3, 8], [3, 5, 8], [3, 5, 8]),
        kind: .invalidShape,
        text: "query has 4 heads, which key's 3 heads do not divide"),
      BadCall(
        views: shapes([4, 3, 8], [2, 5, 8], [4, 5, 8]),
        kind: .invalidShape,
        text: "value has 4 heads but key has 2"),
      BadCall(
        views: shapes([2, 1, 3, 8], [3, 1, 5, 8], [2, 1, 5, 8]),
        kind: .invalidShape,
        text: "key has batch dimensions unlike query's: shapes (3, 1, 5, 8) and (2, 1, 3, 8)"),
      BadCall(
        views: shapes([3, 8], [5, 8], [5, 8], type: .int32),
        kind: .invalidElementType,
        text: "query has dtype int32; attention takes float32 or float64"),
      BadCall(
        views: shapes([1 << 40, 1 << 40, 3, 8], [1 << 40, 1 << 40, 5, 8], [1 << 40, 1 << 40, 5, 8]),
        kind: .invalidShape,
        text: "query has more elements than can be addressed: shape (1099511627776, 1099511627776, 3, 8)"),
      BadCall(
        views: shapes([3, 8], [-5, 8], [-5, 8]),
        kind: .invalidShape,
        text: "key has a negative length: shape (-5, 8)"),
      BadCall(
        views: good(), change: { $0.mask = fakeView([3, 5]) },
        kind: .invalidElementType,
        text: "mask has dtype float32 but must be bool; pass an additive float mask as bias"),
      BadCall(
        views: good(), change: { $0.mask = fakeView([4, 5], type: .bool) },
        kind: .invalidShape,
        text: "mask has shape (4, 5), which does not broadcast to (..., Hq, Sq, Sk) = (2, 4, 3, 5)"),
      BadCall(
        views: good(), change: { $0.bias = fakeView([2, 3, 5]) },
        kind: .invalidShape,
        text: "bias has shape (2, 3, 5), which does not broadcast to (..., Hq, Sq, Sk) = (2, 4, 3, 5)"),
      BadCall(
        views: good(), change: { $0.bias = fakeView([3, 5], type: .float64) },
        kind: .invalidElementType,
        text: "bias has dtype float64 but must have float32"),
      BadCall(
        views: good(), change: { $0.keyLengths = fakeView([2]) },
        kind: .invalidElementType,
        text: "key_lengths has dtype float32 but must be int32 or int64"),
      BadCall(
        views: good(), change: { $0.queryLengths = fakeView([3], type: .int64) },
        kind: .invalidShape,
        text: "query_lengths has shape (3,) but must have (2,)"),
      BadCall(
        views: good(), change: { $0.scale = 0 },
        kind: .invalidArgument,
        text: "scale must be finite and not zero as float32, also when multiplied by log2(e)"),
      BadCall(
        views: good(), change: { $0.scale = .nan },
        kind: .invalidArgument,
        text: "scale must be finite and not zero as float32, also when multiplied by log2(e)"),
      BadCall(
        views: good(), change: { $0.scale = 1e300 },
        kind: .invalidArgument,
        text: "scale must be finite and not zero as float32, also when multiplied by log2(e)"),
      BadCall(
        views: good(), change: { $0.scale = 3e38 },
        kind: .invalidArgument,
        text: "scale must be finite and not zero as float32, also when multiplied by log2(e)"),
      BadCall(
        views: good(), change: { $0.key.data = nil },
        kind: .invalidArgument,
        text: "key has no data: its pointer is NULL"),
      BadCall(
        views: good(), change: { $0.value.data = UnsafeMutableRawPointer(bitPattern: 0x1002) },
        kind: .invalidArgument,
        text: "value is misaligned: its data must lie at a multiple of 4 bytes"),
      BadCall(
        views: good(), change: { $0.query.strides[2] = 6 },
        kind: .invalidShape,
        text: "query has stride 6, which is not a multiple of its 4-byte elements"),
      BadCall(
        views: good(), change: { $0.key.strides[2] = 1 << 61 },
        kind: .invalidShape,
        text: "key reaches beyond the address space: shape (2, 2, 5, 8)"),
    ]
  }

  @Test("each bad argument is named, and what was expected said", arguments: cases.indices)
  func judged(_ index: Int) {
    let bad = Self.cases[index]
    withArguments(bad.views, bad.change) { arguments in
      do throws(AttentionError) {
        _ = try AttentionPlan<Float>(arguments)
        Issue.record("accepted, instead of: \(bad.text)")
      } catch {
        #expect(error.kind == bad.kind)
        #expect(error.description == bad.text)
      }
    }
  }

  @Test("lengths out of range are refused, with the batch they belong to", arguments: [-1, 6])
  func lengthRange(_ length: Int) throws {
    let lengths = try Tensor([5, length], shape: [2])
    try lengths.withView(.int64) { (view: TensorView) throws(AttentionError) in
      var arguments = AttentionArguments(
        query: fakeView([2, 4, 3, 8]), key: fakeView([2, 2, 5, 8]), value: fakeView([2, 2, 5, 6]))
      arguments.keyLengths = view
      do throws(AttentionError) {
        _ = try AttentionPlan<Float>(arguments)
        Issue.record("length \(length) was accepted")
      } catch {
        #expect(error.description == "key_lengths must lie in 0...Sk = 5, but the one of batch 1 is \(length)")
      }
    }
  }

  @Test("a tensor of too many dimensions says so")
  func tooManyDimensions() {
    do throws(AttentionError) {
      _ = try Tensor<Float>([1], shape: [Int](repeating: 1, count: 9))
      Issue.record("9 dimensions were accepted")
    } catch {
      #expect(error.description == "a tensor has at most 8 dimensions, not 9")
    }
  }

  @Test("a message longer than its room is cut, not written past it")
  func longMessage() {
    var message: Message = "\(String(repeating: "x", count: 500))"
    #expect(message.count == Message.capacity)
    message = "\("caf\u{e9}\n")"
    #expect(message.withBytes { String(decoding: $0, as: UTF8.self) } == "caf???")
    message = "\(Int.min) and \(Int.max)"
    #expect(message.withBytes { String(decoding: $0, as: UTF8.self) } == "-9223372036854775808 and 9223372036854775807")
  }
}

extension Message.Interpolation {
  fileprivate mutating func appendInterpolation(_ text: String) {
    text.withCString { appendInterpolation(cString: $0) }
  }
}
