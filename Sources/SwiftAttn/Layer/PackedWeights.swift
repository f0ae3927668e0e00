import AttentionBlocks

/// A layer's weights packed once, for calls between which they do not change: W^T of q, k, v and out as `PackedMatrix`,
/// in one piece of memory in this order. Weights of inputs of one width thus lie as the product of all three wants
/// them. Unchecked because of the pointer: the memory is only read, and is the caller's.
struct PackedWeights<Element: ComputeElement>: @unchecked Sendable {
  private let base: UnsafePointer<Element>
  private let offsets: Offsets

  /// `memory` has what `pack` made of these parameters.
  init(_ memory: UnsafeRawPointer, _ parameters: LayerParameterViews) {
    base = memory.assumingMemoryBound(to: Element.self)
    offsets = Offsets(parameters)
  }

  /// W^T, where W is `weight`.
  func transposed(_ parameter: LayerParameter, _ weight: StridedMatrix<Element>) -> PackedMatrix<Element> {
    PackedMatrix(base: base + offsets[parameter], rows: weight.columns, columns: weight.rows)
  }

  /// What judged weights take, at least one element. It can be counted: none has more than 2^48 elements, nor takes
  /// more than as many square tiles.
  static func bytes(_ parameters: LayerParameterViews) -> Int {
    max(Offsets(parameters).end, 1) * MemoryLayout<Element>.stride
  }

  static func pack(_ parameters: LayerParameterViews, to memory: UnsafeMutableRawPointer) throws(AttentionError) {
    let kernels = Element.kernels(try Dispatch.current())
    let target = memory.assumingMemoryBound(to: Element.self)
    let offsets = Offsets(parameters)
    for parameter in LayerParameter.allCases where parameter.isWeight {
      let weight = StridedMatrix(parameters[parameter], as: Element.self)
      try PackedMatrix.pack(weight.transposed, to: target + offsets[parameter], kernels.layout)
    }
  }

  /// Where each weight begins.
  private struct Offsets {
    private let key, value, out: Int
    let end: Int

    init(_ parameters: LayerParameterViews) {
      func elements(_ parameter: LayerParameter) -> Int {
        guard let shape = parameters[parameter]?.shape else { return 0 }
        return PackedMatrix<Element>.elements(rows: shape[1], columns: shape[0])
      }
      key = elements(.queryWeight)
      value = key + elements(.keyWeight)
      out = value + elements(.valueWeight)
      end = out + elements(.outWeight)
    }

    subscript(parameter: LayerParameter) -> Int {
      switch parameter {
      case .keyWeight: key
      case .valueWeight: value
      case .outWeight: out
      default: 0
      }
    }
  }
}
