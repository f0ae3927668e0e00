import AttentionBlocks
import AttentionKernelsBaseline

#if arch(x86_64)
  import AttentionKernelsAVX2
  import AttentionKernelsAVX512
#elseif arch(arm64)
  import AttentionKernelsNEON
#endif

/// The tables of every instruction set. Each is made when first used and only where it is supported: even making it may
/// take instructions that other processors lack.
enum KernelRegistry {
  static func float32(_ set: InstructionSet) -> KernelTable<Float> {
    switch set {
    #if arch(x86_64)
      case .avx512: avx512Float32
      case .avx2: avx2Float32
    #elseif arch(arm64)
      case .neon: neonFloat32
    #endif
    case .baseline: baselineFloat32
    }
  }

  static func float64(_ set: InstructionSet) -> KernelTable<Double> {
    switch set {
    #if arch(x86_64)
      case .avx512: avx512Float64
      case .avx2: avx2Float64
    #elseif arch(arm64)
      case .neon: neonFloat64
    #endif
    case .baseline: baselineFloat64
    }
  }

  #if arch(x86_64)
    private static let avx512Float32 = AttentionKernelsAVX512.Kernels.float32()
    private static let avx512Float64 = AttentionKernelsAVX512.Kernels.float64()
    private static let avx2Float32 = AttentionKernelsAVX2.Kernels.float32()
    private static let avx2Float64 = AttentionKernelsAVX2.Kernels.float64()
  #elseif arch(arm64)
    private static let neonFloat32 = AttentionKernelsNEON.Kernels.float32()
    private static let neonFloat64 = AttentionKernelsNEON.Kernels.float64()
  #endif
  private static let baselineFloat32 = AttentionKernelsBaseline.Kernels.float32()
  private static let baselineFloat64 = AttentionKernelsBaseline.Kernels.float64()
}
