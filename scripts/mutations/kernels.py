"""Mutations of the kernels and of the shims below them."""

from __future__ import annotations

from .mutation import Mutation

BIAS = "Sources/AttentionKernels/Bias.swift"
EXP2 = "Sources/AttentionKernels/Exp2.swift"
LAYOUT = "Sources/AttentionKernels/Layout.swift"
MASKING = "Sources/AttentionKernels/Masking.swift"
MULTIPLY = "Sources/AttentionKernels/Multiply.swift"
MULTIPLY_TRANSPOSED = "Sources/AttentionKernels/MultiplyTransposed.swift"
ROTARY = "Sources/AttentionKernels/Rotary.swift"
SOFTMAX = "Sources/AttentionKernels/Softmax.swift"
SOFTMAX_ROWS = "Sources/AttentionKernels/SoftmaxRows.swift"
VECTORS = "Sources/CSwiftAttnShims/include/swiftattn_vectors.h"

KERNELS = (
    Mutation(
        "softmax-rows-tail-seen",
        "the lanes past the last key count in the maximum",
        SOFTMAX_ROWS,
        "  for key in rows.keys..<lanes { scores[key] = -.infinity }\n",
        "  _ = lanes\n",
    ),
    Mutation(
        "softmax-rows-one-chain",
        "few queries sum their keys in another order",
        SOFTMAX_ROWS,
        "odd += p[key &+ 1]",
        "even += p[key &+ 1]",
    ),
    Mutation(
        "layout-few-rows-not-padded",
        "lanes past the last of one or two rows keep what was there",
        LAYOUT,
        "    for c in 0..<V.lanes { V.zero.store(destination + destinationOffsets[c]) }\n",
        "",
    ),
    Mutation(
        "multiply-transposed-keeps-its-columns",
        "a single row after those of the tile finds nothing packed",
        MULTIPLY_TRANSPOSED,
        "product.rows > rows ? packed",
        "product.rows > rows &+ 1 ? packed",
    ),
    Mutation(
        "softmax-output-not-rescaled",
        "o keeps its size when the reference moves",
        SOFTMAX,
        "if V.anyUnequal(correction, V(repeating: 1)) {",
        "if V.anyUnequal(correction, correction) {",
    ),
    Mutation(
        "softmax-sum-not-rescaled",
        "l keeps its size when the reference moves",
        SOFTMAX,
        "V.fma(V.load(state.sum + lane), correction, sum).store(state.sum + lane)",
        "(V.load(state.sum + lane) + sum).store(state.sum + lane)",
    ),
    Mutation(
        "softmax-last-odd-key-lost",
        "the last key of an odd number is missing in the sum",
        SOFTMAX,
        "    even = even + last\n",
        "",
    ),
    Mutation(
        "softmax-hidden-scores-count",
        "hidden pairs keep their scores",
        SOFTMAX,
        "if panel.visibility != nil { hideScores(panel, lane: lane, V.self) }",
        "",
    ),
    Mutation(
        "softmax-gradient-hidden-leaks",
        "dS of hidden pairs is a product, not zero",
        SOFTMAX,
        "dS = V.whereBit(words, bit, dS, V.zero)",
        "",
    ),
    Mutation(
        "exp2-loses-nan",
        "a NaN score counts as minus infinity",
        EXP2,
        "let bounded = V.maximum(smallest, x)",
        "let bounded = V.maximum(x, smallest)",
    ),
    Mutation(
        "exp2-large-reference-in-shift",
        "a reference too large for the rounding shift is not subtracted",
        EXP2,
        "isWithinShift = !V.anyUnequal(m, inShift)",
        "isWithinShift = true",
    ),
    Mutation(
        "bias-in-natural-units",
        "bias is added without log2(e)",
        BIAS,
        "scratch.tileOffsets, V.Scalar.log2e, scratch)",
        "scratch.tileOffsets, 1, scratch)",
    ),
    Mutation(
        "bias-gradient-overwrites-broadcast",
        "a bias gradient that is broadcast along the keys keeps its last block only",
        BIAS,
        "destination.pointee += sum",
        "destination.pointee = sum",
    ),
    Mutation(
        "gather-last-lane-of-strided-tile",
        "the last column of a whole strided tile is zero",
        LAYOUT,
        "for c in 0..<columnCount { scratch.tile[r &* V.lanes &+ c] = source[c &* rows.stride] }",
        "for c in 0..<min(columnCount, V.lanes &- 1) { scratch.tile[r &* V.lanes &+ c] = source[c &* rows.stride] }",
    ),
    Mutation(
        "scatter-last-row-of-tail",
        "the last row of a partial tile is not written",
        LAYOUT,
        "for r in 0..<rowCount {\n        let destination",
        "for r in 0..<(rowCount < V.lanes ? rowCount &- 1 : rowCount) {\n        let destination",
    ),
    Mutation(
        "pack-ignores-stride",
        "columns that are not neighbours are read as if they were",
        LAYOUT,
        "destination[column] = source[column &* rows.stride] * factor",
        "destination[column] = source[column] * factor",
    ),
    Mutation(
        "multiply-stale-accumulator",
        "a product that starts with zeros adds to what is there",
        MULTIPLY,
        "case .zero: nil",
        "case .zero: (UnsafePointer(c), cStride)",
    ),
    Mutation(
        "multiply-last-odd-row-lost",
        "the last row of an odd number is not multiplied",
        MULTIPLY,
        "  if row < product.rows {\n",
        "  if row < product.rows && row == 0 {\n",
    ),
    Mutation(
        "masking-leading-keys-hidden",
        "a mask hides the keys before its first",
        MASKING,
        "&<< UInt64(leading) | ((1 &<< UInt64(leading)) &- 1)",
        "&<< UInt64(leading)",
    ),
    Mutation(
        "masking-rows-share-a-word",
        "every row sees what the first one sees",
        MASKING,
        "if rows.offsets[row] != offset {",
        "if offset == Int.min {",
    ),
    Mutation(
        "bias-first-row-for-all",
        "a bias whose second row is the first is taken for one row",
        BIAS,
        "for row in 1..<max(bias.rows, 1) where",
        "for row in 1..<min(max(bias.rows, 1), 2) where",
    ),
    Mutation(
        "masking-hidden-queries-multiplied",
        "a NaN in a row that does not see the key reaches dK and dV",
        MASKING,
        "where (words[p] &>> UInt32(truncatingIfNeeded: key & 31)) & 1 != 0 {",
        "where words[p] | 1 != 0 {",
    ),
    Mutation(
        "masking-tail-not-searched",
        "a NaN past the last whole vector is not found",
        MASKING,
        "foundScalar += start[column &* columnStride] * 0",
        "foundScalar += 0",
    ),
    Mutation(
        "rotary-sign",
        "pairs are mirrored instead of turned",
        ROTARY,
        "first[0] = a * rows.cosines[t] - b * rows.sines[t]",
        "first[0] = a * rows.cosines[t] + b * rows.sines[t]",
    ),
    Mutation(
        "mask-ignores-stride",
        "mask bytes that are not neighbours are read as if they were",
        VECTORS,
        "(mask[i * stride] != 0) << i",
        "(mask[i] != 0) << i",
    ),
)
