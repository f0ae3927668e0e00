import AttentionBlocks
import AttentionKernelsBaseline
import CSwiftAttnShims
import Synchronization

#if arch(x86_64)
  import AttentionKernelsAVX2
  import AttentionKernelsAVX512
#elseif arch(arm64)
  import AttentionKernelsNEON
#endif

/// A tier of kernels. The registry: adding one is a module of kernels, a case here and its tables below.
public enum InstructionSet: Int32, CaseIterable, Sendable {
  // Best first.
  #if arch(x86_64)
    case avx512 = 2
    case avx2 = 1
  #elseif arch(arm64)
    case neon = 1
  #endif
  case baseline = 0

  public var name: StaticString {
    switch self {
    #if arch(x86_64)
      case .avx512: AttentionKernelsAVX512.Kernels.isa
      case .avx2: AttentionKernelsAVX2.Kernels.isa
    #elseif arch(arm64)
      case .neon: AttentionKernelsNEON.Kernels.isa
    #endif
    case .baseline: AttentionKernelsBaseline.Kernels.isa
    }
  }

  /// Rows x vectors of the register tile of its products.
  public var tile: StaticString {
    switch self {
    #if arch(x86_64)
      case .avx512: AttentionKernelsAVX512.Kernels.tile
      case .avx2: AttentionKernelsAVX2.Kernels.tile
    #elseif arch(arm64)
      case .neon: AttentionKernelsNEON.Kernels.tile
    #endif
    case .baseline: AttentionKernelsBaseline.Kernels.tile
    }
  }

  /// Whether its kernels include `multiplyTransposed`, answered without making them.
  var transposes: Bool {
    switch self {
    #if arch(x86_64)
      case .avx512: AttentionKernelsAVX512.Kernels.transposes
      case .avx2: AttentionKernelsAVX2.Kernels.transposes
    #elseif arch(arm64)
      case .neon: AttentionKernelsNEON.Kernels.transposes
    #endif
    case .baseline: AttentionKernelsBaseline.Kernels.transposes
    }
  }

  /// Whether this processor, and its operating system, can run it.
  public var isSupported: Bool { rawValue <= sa_cpu_tier() }

  /// The one of that name, nil when there is none.
  public init?(name: UnsafePointer<CChar>) {
    for candidate in Self.allCases where candidate.isNamed(name) {
      self = candidate
      return
    }
    return nil
  }

  private func isNamed(_ text: UnsafePointer<CChar>) -> Bool {
    let name = name
    for i in 0..<name.utf8CodeUnitCount where UInt8(bitPattern: text[i]) != name.utf8Start[i] { return false }
    return text[name.utf8CodeUnitCount] == 0
  }

  /// The best that is supported.
  public static var best: InstructionSet { allCases.first { $0.isSupported } ?? .baseline }
}

/// Which instruction set calls use: the one last chosen, else the environment variable SWIFTATTN_ISA, else the best.
public enum Dispatch {
  /// Thread-safe; calls that have started keep theirs.
  public static func current() throws(AttentionError) -> InstructionSet {
    if let known = InstructionSet(rawValue: chosen.load(ordering: .relaxed)) { return known }
    let found: InstructionSet
    if let name = sa_environment("SWIFTATTN_ISA"), name.pointee != 0 {
      found = try find(name, source: "SWIFTATTN_ISA")
    } else {
      found = .best
    }
    // What another thread has chosen meanwhile stays.
    let before = chosen.compareExchange(expected: undecided, desired: found.rawValue, ordering: .relaxed).original
    return InstructionSet(rawValue: before) ?? found
  }

  /// Chooses for calls that start from now on, in all threads.
  public static func choose(_ set: InstructionSet) throws(AttentionError) {
    guard set.isSupported else { throw unsupported(set.name, source: "the instruction set") }
    chosen.store(set.rawValue, ordering: .relaxed)
  }

  /// The same by name.
  public static func choose(named name: UnsafePointer<CChar>) throws(AttentionError) {
    chosen.store(try find(name, source: "the instruction set").rawValue, ordering: .relaxed)
  }

  /// Returns to the environment variable's choice, or the best.
  public static func chooseDefault() { chosen.store(undecided, ordering: .relaxed) }

  private static func find(
    _ name: UnsafePointer<CChar>, source: StaticString
  ) throws(AttentionError) -> InstructionSet {
    guard let found = InstructionSet(name: name) else {
      throw AttentionError(
        .unsupportedInstructionSet, "\(source) is '\(cString: name)', but must be one of \(known)")
    }
    guard found.isSupported else { throw unsupported(found.name, source: source) }
    return found
  }

  private static func unsupported(_ name: StaticString, source: StaticString) -> AttentionError {
    AttentionError(.unsupportedInstructionSet, "\(source) is '\(name)', which this processor does not support")
  }

  #if arch(x86_64)
    private static var known: StaticString { "avx512, avx2, baseline" }
  #elseif arch(arm64)
    private static var known: StaticString { "neon, baseline" }
  #else
    private static var known: StaticString { "baseline" }
  #endif
}

private let undecided: Int32 = -1
private let chosen = Atomic<Int32>(-1)

/// An element type that the registry has kernels for.
public protocol ComputeElement: AttentionElement {
  static var type: ElementType { get }
  static func kernels(_ set: InstructionSet) -> KernelTable<Self>
}

extension Float: ComputeElement {
  public static var type: ElementType { .float32 }
  public static func kernels(_ set: InstructionSet) -> KernelTable<Float> { KernelRegistry.float32(set) }
}

extension Double: ComputeElement {
  public static var type: ElementType { .float64 }
  public static func kernels(_ set: InstructionSet) -> KernelTable<Double> { KernelRegistry.float64(set) }
}
