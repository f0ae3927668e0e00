import Testing

@testable import SwiftAttn

@Suite struct AttentionErrorTests {
  typealias Change = (inout AttentionArguments) -> Void

  /// Each bad call: what is changed, the kind of error, and the sentence.
  private static var cases: [(name: String, views: [TensorView], change: Change, kind: AttentionError.Kind, text: String)] {
    let good = shapes([2, 4, 3, 8], [2, 2, 5, 8], [2, 2, 5, 6])
    func bad(_ query: [Int], _ key: [Int], _ value: [Int]) -> [TensorView] { shapes(query, key, value) }
    return [
      ("rank 1", bad([8], [8], [8]), { _ in }, .invalidShape, "query must have rank 2 or more, but has shape (8,)"),
      ("ranks", bad([3, 8], [1, 5, 8], [5, 8]), { _ in }, .invalidShape, "key has rank 3 but query has rank 2; its shape is (1, 5, 8)"),
      ("head dims", bad([3, 64], [5, 32], [5, 32]), { _ in }, .invalidShape, "key has head_dim 32 but query has 64"),
      ("head dim 0", bad([3, 0], [5, 0], [5, 2]), { _ in }, .invalidShape, "query has head_dim 0; it must be at least 1"),
      ("lengths", bad([3, 8], [5, 8], [6, 8]), { _ in }, .invalidShape, "value has length 6 but key has 5"),
      ("KV heads", bad([4, 3, 8], [3, 5, 8], [3, 5, 8]), { _ in }, .invalidShape, "query has 4 heads, which key's 3 heads do not divide"),
      ("value heads", bad([4, 3, 8], [2, 5, 8], [4, 5, 8]), { _ in }, .invalidShape, "value has 4 heads but key has 2"),
      ("batches", bad([2, 1, 3, 8], [3, 1, 5, 8], [2, 1, 5, 8]), { _ in }, .invalidShape, "key has batch dimensions unlike query's: shapes (3, 1, 5, 8) and (2, 1, 3, 8)"),
      ("integers", shapes([3, 8], [5, 8], [5, 8], type: .int32), { _ in }, .invalidElementType, "query has dtype int32; attention takes float32 or float64"),
      ("overflow", bad([1 << 40, 1 << 40, 3, 8], [1 << 40, 1 << 40, 5, 8], [1 << 40, 1 << 40, 5, 8]), { _ in }, .invalidShape, "query has more elements than can be addressed: shape (1099511627776, 1099511627776, 3, 8)"),
      ("negative length", bad([3, 8], [-5, 8], [-5, 8]), { _ in }, .invalidShape, "key has a negative length: shape (-5, 8)"),
      ("float mask", good, { $0.mask = fakeView([3, 5]) }, .invalidElementType, "mask has dtype float32 but must be bool; pass an additive float mask as bias"),
      ("mask shape", good, { $0.mask = fakeView([4, 5], type: .bool) }, .invalidShape, "mask has shape (4, 5), which does not broadcast to (..., Hq, Sq, Sk) = (2, 4, 3, 5)"),
      ("bias shape", good, { $0.bias = fakeView([2, 3, 5]) }, .invalidShape, "bias has shape (2, 3, 5), which does not broadcast to (..., Hq, Sq, Sk) = (2, 4, 3, 5)"),
      ("bias type", good, { $0.bias = fakeView([3, 5], type: .float64) }, .invalidElementType, "bias has dtype float64 but must have float32"),
      ("lengths type", good, { $0.keyLengths = fakeView([2]) }, .invalidElementType, "key_lengths has dtype float32 but must be int32 or int64"),
      ("lengths shape", good, { $0.queryLengths = fakeView([3], type: .int64) }, .invalidShape, "query_lengths has shape (3,) but must have (2,)"),
      ("zero scale", good, { $0.scale = 0 }, .invalidArgument, "scale must be finite and not zero"),
      ("NaN scale", good, { $0.scale = .nan }, .invalidArgument, "scale must be finite and not zero"),
      ("scale beyond float32", good, { $0.scale = 1e300 }, .invalidArgument, "scale must be finite and not zero"),
      ("NULL", good, { $0.key.data = nil }, .invalidArgument, "key has no data: its pointer is NULL"),
      ("misaligned", good, { $0.value.data = UnsafeMutableRawPointer(bitPattern: 0x1002) }, .invalidArgument, "value is misaligned: its data must lie at a multiple of 4 bytes"),
      ("stride", good, { $0.query.strides[2] = 6 }, .invalidShape, "query has stride 6, which is not a multiple of its 4-byte elements"),
      ("extent", good, { $0.key.strides[2] = 1 << 61 }, .invalidShape, "key reaches beyond the address space: shape (2, 2, 5, 8)"),
    ]
  }

  @Test("each bad argument is named, and what was expected said", arguments: cases.indices)
  func judged(_ index: Int) {
    let (name, views, change, kind, text) = Self.cases[index]
    withArguments(views, change) { arguments in
      do throws(AttentionError) {
        _ = try AttentionPlan<Float>(arguments)
        Issue.record("\(name) was accepted")
      } catch {
        #expect(error.kind == kind)
        #expect(error.description == text)
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

  @Test("a message longer than its room is cut, not written past it")
  func longMessage() {
    var message: Message = "\(String(repeating: "x", count: 500))"
    #expect(message.count == Message.capacity)
    message = "\(Int.min) and \(Int.max)"
    #expect(message.withBytes { String(decoding: $0, as: UTF8.self) } == "-9223372036854775808 and 9223372036854775807")
  }
}

extension Message.Interpolation {
  fileprivate mutating func appendInterpolation(_ text: String) {
    text.withCString { appendInterpolation(cString: $0) }
  }
}
