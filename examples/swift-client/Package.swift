// swift-tools-version: 6.2
import PackageDescription

let package = Package(
  name: "swift-client",
  dependencies: [.package(name: "swiftattn", path: "../..")],
  targets: [
    .executableTarget(name: "client", dependencies: [.product(name: "SwiftAttn", package: "swiftattn")])
  ]
)
