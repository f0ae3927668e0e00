// swift-tools-version: 6.2
import PackageDescription

// The `Embedded` trait builds the runtime-free shared library; without it the same sources serve Swift packages.
let embedded: [SwiftSetting] = [
  .enableExperimentalFeature("Embedded", .when(traits: ["Embedded"])),
  .unsafeFlags(["-wmo", "-Xfrontend", "-function-sections"], .when(traits: ["Embedded"])),
]

/// One module of kernels: the shared sources compiled for one instruction set, always optimised.
func kernels(_ name: String, _ isa: [String]) -> Target {
  .target(
    name: name, dependencies: ["AttentionBlocks", "CSwiftAttnShims"],
    swiftSettings: [.unsafeFlags(["-Ounchecked", "-wmo"] + isa)] + embedded)
}

#if arch(x86_64)
  let tiers = [
    kernels("AttentionKernelsBaseline", []),
    kernels("AttentionKernelsAVX2", ["-Xcc", "-march=x86-64-v3"]),
    kernels("AttentionKernelsAVX512", ["-Xcc", "-march=x86-64-v4"]),
  ]
#elseif arch(arm64)
  let tiers = [kernels("AttentionKernelsBaseline", []), kernels("AttentionKernelsNEON", [])]
#else
  let tiers = [kernels("AttentionKernelsBaseline", [])]
#endif

let package = Package(
  name: "swiftattn",
  products: [
    .library(name: "SwiftAttn", targets: ["SwiftAttn"]),
    .library(name: "swiftattn", type: .dynamic, targets: ["SwiftAttnABI"]),
  ],
  traits: [.trait(name: "Embedded", description: "Build libswiftattn.so without a Swift runtime.")],
  targets: [
    .target(name: "CSwiftAttn"),
    .target(name: "CSwiftAttnShims", exclude: ["README.md"], linkerSettings: [.linkedLibrary("m")]),
    .target(name: "AttentionBlocks", dependencies: ["CSwiftAttnShims"], swiftSettings: embedded),
  ] + tiers + [
    .target(
      name: "SwiftAttn",
      dependencies: ["AttentionBlocks", "CSwiftAttnShims"] + tiers.map { .target(name: $0.name) },
      swiftSettings: embedded),
    .target(
      name: "SwiftAttnABI", dependencies: ["SwiftAttn", "CSwiftAttn", "CSwiftAttnShims"], exclude: ["exports.map"],
      swiftSettings: embedded,
      linkerSettings: [
        .unsafeFlags([
          "-Xlinker", "--version-script=\(Context.packageDirectory)/Sources/SwiftAttnABI/exports.map",
          "-Xlinker", "-soname=libswiftattn.so.0", "-Xlinker", "--no-undefined", "-Xlinker", "--gc-sections",
          // Parked workers stay in the library's code: it must not be unmapped under them.
          "-Xlinker", "-z", "-Xlinker", "nodelete",
        ])
      ]),
    .target(name: "FMAPeak", path: "benchmarks/FMAPeak"),
    .executableTarget(
      name: "swiftattn-benchmark", dependencies: ["SwiftAttn", "FMAPeak"], path: "benchmarks/Swift"),
    .target(name: "CTestSupport", path: "Tests/CTestSupport"),
    .testTarget(
      name: "AttentionKernelsTests", dependencies: ["AttentionBlocks", "SwiftAttn"]),
    .testTarget(
      name: "SwiftAttnTests", dependencies: ["AttentionBlocks", "SwiftAttn", "CTestSupport", "CSwiftAttnShims"]),
  ]
)
