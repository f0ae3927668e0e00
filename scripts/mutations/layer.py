"""Mutations of the matrix products and of the layer."""

from __future__ import annotations

from .mutation import Mutation

MAP = "Sources/SwiftAttn/Linear/LinearMap.swift"
MATRIX_PARTITION = "Sources/SwiftAttn/Linear/MatrixPartition.swift"
MATRIX_PASS = "Sources/SwiftAttn/Linear/MatrixPass.swift"
PACKED_MATRIX = "Sources/SwiftAttn/Linear/PackedMatrix.swift"
PRODUCT = "Sources/SwiftAttn/Linear/MatrixProduct.swift"
SEQUENCES = "Sources/SwiftAttn/Linear/SequenceRows.swift"
BACKWARD = "Sources/SwiftAttn/Layer/LayerBackward.swift"
OPERATOR = "Sources/SwiftAttn/Interface/LayerOperator.swift"
PLAN = "Sources/SwiftAttn/Layer/LayerPlan.swift"
ROTARY = "Sources/SwiftAttn/Layer/RotaryPass.swift"

LAYER = (
    Mutation(
        "product-weight-not-transposed",
        "Y = X W",
        MAP,
        "b: weight.transposed, c: target, start: start",
        "b: weight, c: target, start: start",
    ),
    Mutation(
        "product-start-not-transposed",
        "the bias of a product computed transposed lies along the wrong axis",
        PRODUCT,
        "start: start?.transposed)",
        "start: start)",
    ),
    Mutation(
        "product-first-rows-lack-the-rest-of-the-depth",
        "rows multiplied while B is transposed miss what is left of the depth after whole vectors",
        MATRIX_PASS,
        "    if depth < part.depth {\n",
        "    if depth == 0 {\n",
    ),
    Mutation(
        "product-first-rows-twice",
        "rows multiplied while B is transposed are added to again",
        MATRIX_PASS,
        "    part = part.rows(from: rows)\n    part.rows -= rows\n",
        "",
    ),
    Mutation(
        "product-last-block-alone",
        "of a long depth only the last block counts",
        MATRIX_PASS,
        "        start = .accumulator\n",
        "        start = depth.isEmpty ? .accumulator : start\n",
    ),
    Mutation(
        "product-last-rows-lost",
        "rows after the last whole block are not computed",
        MATRIX_PARTITION,
        "private var blocks: Int { (rows + rowsPerBlock - 1) / rowsPerBlock }",
        "private var blocks: Int { max(rows / rowsPerBlock, 1) }",
    ),
    Mutation(
        "partition-forgets-the-last-strip",
        "the time for a last strip that is narrower is not counted when a product is cut",
        MATRIX_PARTITION,
        "var narrow = part > 0 ? blocks : 0",
        "var narrow = 0",
    ),
    Mutation(
        "partition-forgets-who-is-late",
        "items that do not share out evenly are taken to do so",
        MATRIX_PARTITION,
        "      span += 1\n",
        "      span += Double(late) / Double(threads)\n",
    ),
    Mutation(
        "packed-later-depth-lost",
        "later blocks of the depth read the first rows of packed weights",
        PACKED_MATRIX,
        "base + (first + row * stride)",
        "base + (first + 0 * stride)",
    ),
    Mutation(
        "packed-tiles-overrun",
        "transposing the last tile of a panel writes into the next, or past the end",
        PACKED_MATRIX,
        "{ Element.padded(rows) * Element.padded(columns) }",
        "{ rows * Element.padded(columns) }",
    ),
    Mutation(
        "packed-joined-in-a-panel",
        "packed weights are joined though the first ends within a panel",
        PACKED_MATRIX,
        "guard columns % StripPanels<Element>.columns(isPacked: true) == 0, rows == other.rows,",
        "guard rows == other.rows,",
    ),
    Mutation(
        "packing-in-the-callers-float-environment",
        "denormal weights are packed as zeros where the caller flushes them",
        OPERATOR,
        "into packed: UnsafeMutableRawBufferPointer\n  ) throws(AttentionError) {\n"
        "    let environment = FloatEnvironment.enterDefault()\n    defer { environment.restore() }\n",
        "into packed: UnsafeMutableRawBufferPointer\n  ) throws(AttentionError) {\n",
    ),
    Mutation(
        "packed-weights-may-be-written",
        "what forward saves may overlap the packed weights",
        OPERATOR,
        'try outputs.keepClear(of: try TensorView(memory: packed, "packed", bytes: bytes), "packed")',
        '_ = try TensorView(memory: packed, "packed", bytes: bytes)',
    ),
    Mutation(
        "packed-weights-outlive-changes",
        "a layer of changed parameters computes with those that were packed",
        "Sources/SwiftAttn/Interface/MultiHeadAttention.swift",
        "{ didSet { packed = nil } }",
        "{ didSet {} }",
    ),
    Mutation(
        "joined-in-other-order",
        "projections are joined though their weights lie in another order than their outputs",
        MAP,
        "func joined(_ other: Self) -> Self? {\n    guard x.isSame(as: other.x), "
        "let weight = weight.above(other.weight), let y",
        "func joined(_ other: Self) -> Self? {\n    guard x.isSame(as: other.x), "
        "let weight = other.weight.above(weight) ?? weight.above(other.weight), let y",
    ),
    Mutation(
        "joined-without-second-gradient",
        "a gradient that is left out leaves the other one out",
        MAP,
        "return first == nil && second == nil }",
        "return true }",
    ),
    Mutation(
        "weight-gradient-overwrites",
        "a weight's gradient is not added to what is there",
        MAP,
        "c: weightGradient, start: weightGradient)",
        "c: weightGradient, start: nil)",
    ),
    Mutation(
        "input-gradient-overwrites",
        "the gradient of an input that stands in for another is that of its last use",
        MAP,
        "start: addsToInputGradient ? target : nil",
        "start: nil",
    ),
    Mutation(
        "unseen-token-reaches-weights",
        "a NaN in a token that nobody sees reaches the weights' gradients",
        MAP,
        "guard hasUnseenRows, masking",
        "guard false, masking",
    ),
    Mutation(
        "rows-folded-when-apart",
        "sequences that are not next to each other are read as if they were",
        SEQUENCES,
        "      guard strides[axis] == row &* rows else { return false }\n",
        "",
    ),
    Mutation(
        "layer-wrong-head-count",
        "key heads are cut as query heads",
        "Sources/SwiftAttn/Layer/LayerBuffers.swift",
        "key.withHeadAxis(heads: shape.headsKV),",
        "key.withHeadAxis(heads: min(shape.headsQ, shape.keyWidth)),",
    ),
    Mutation(
        "layer-key-offset-ignored",
        "keys turn by the queries' positions",
        PLAN,
        "offset: rope.keyOffset ?? rope.offset)",
        "offset: rope.offset)",
    ),
    Mutation(
        "layer-turns-own-keys",
        "rotary positions turn the layer's own keys",
        PLAN,
        ".init(key.droppingRows(shape.leadingKeys),",
        ".init(key,",
    ),
    Mutation(
        "layer-token-in-wrong-row",
        "the learned key comes after the zero one",
        PLAN,
        "let source = row == 0 ? token : nil",
        "let source = row == shape.leadingKeys - 1 ? token : nil",
    ),
    Mutation(
        "layer-does-not-turn-back",
        "the derivative of the turn is the turn",
        ROTARY,
        "sign = turnsBack ? -1 : 1",
        "sign = turnsBack ? 1 : 1",
    ),
    Mutation(
        "layer-output-bias-gradient-lost",
        "the output's bias has no gradient",
        BACKWARD,
        "biasGradient: parameterGradient(.outBias)",
        "biasGradient: nil",
    ),
    Mutation(
        "layer-token-gradient-alone",
        "the learned key's gradient is zero unless others are wanted",
        BACKWARD,
        " || wanted.parameters[.keyToken] != nil",
        "",
    ),
    Mutation(
        "layer-bias-gradient-lost",
        "the additive bias has no gradient",
        BACKWARD,
        "AttentionGradients(bias: wanted.bias)",
        "AttentionGradients()",
    ),
    Mutation(
        "layer-weights-from-stale-lse",
        "weights of a call that saves nothing come from another call's lse",
        OPERATOR,
        "needsLse: isSaved || weights != nil",
        "needsLse: isSaved",
    ),
    Mutation(
        "layer-parts-share-weights",
        "every part of a batch writes the weights of the first",
        OPERATOR,
        "weights.map { $0.firstAxis(part) }",
        "weights.map { $0.firstAxis(0..<part.count) }",
    ),
    Mutation(
        "layer-saved-overlap-not-judged",
        "what is saved may lie in an output",
        OPERATOR,
        '    if let memory { try outputs.admit(memory, "saved", shape: memory.shape, type: .bool) }\n',
        "",
    ),
)
