import SwiftAttn

// Five tokens, two heads, eight dimensions each: (heads, tokens, head dim).
let shape = [2, 5, 8]
let q = try Tensor<Float>((0..<80).map { Float($0 % 7) - 3 }, shape: shape)
let k = try Tensor<Float>((0..<80).map { Float($0 % 5) - 2 }, shape: shape)
let v = try Tensor<Float>((0..<80).map(Float.init), shape: shape)

let attention = Attention<Float>(causal: .topLeft)
let output = try attention.forward(query: q, key: k, value: v)
print("out", output.out.shape, "begins with", output.out.elements.prefix(4))

let ones = try Tensor<Float>(repeating: 1, shape: shape)
let gradients = try attention.backward(ones, query: q, key: k, value: v, output: output)
print("the gradient of the sum of out with respect to v sums to", gradients.value.elements.reduce(0, +))

do {
  _ = try attention(query: q, key: Tensor(repeating: 0, shape: [2, 5, 4]), value: v)
} catch {
  print("a bad call says:", error)
}
print("instruction set:", try Dispatch.current().name)
