"""Mutations of the plan, the partition, the passes and the threads."""

from __future__ import annotations

from .mutation import Mutation

PASSES_FOLDER = "Sources/SwiftAttn/Passes"
BACKWARD = f"{PASSES_FOLDER}/BackwardPass.swift"
CONTROL = f"{PASSES_FOLDER}/CallControl.swift"
FEW = f"{PASSES_FOLDER}/FewQueries.swift"
FORWARD = f"{PASSES_FOLDER}/ForwardPass.swift"
PAIR_SUM = f"{PASSES_FOLDER}/PairSumPass.swift"
ROWS = f"{PASSES_FOLDER}/BlockRows.swift"
ROW_SUM = f"{PASSES_FOLDER}/RowSum.swift"
SCORE_GRADIENT = f"{PASSES_FOLDER}/ScoreGradient.swift"
VISIBILITY = f"{PASSES_FOLDER}/Visibility.swift"
JUDGE = "Sources/SwiftAttn/Plan/TensorJudge.swift"
OPERAND = "Sources/SwiftAttn/Plan/Operand.swift"
OVERLAP = "Sources/SwiftAttn/Plan/Overlap.swift"
PARTITION = "Sources/SwiftAttn/Plan/Partition.swift"
PLAN = "Sources/SwiftAttn/Plan/AttentionPlan.swift"
OPERATOR = "Sources/SwiftAttn/Interface/AttentionOperator.swift"
POOL = "Sources/SwiftAttn/Threads/ThreadPool.swift"

PASSES = (
    Mutation(
        "causal-off-by-one",
        "a query does not see the key of its own position",
        ROWS,
        "(plan.causalOffset ?? plan.geometry.seqLenK) + 1, 0)",
        "(plan.causalOffset ?? plan.geometry.seqLenK), 0)",
    ),
    Mutation(
        "causal-corner-mirrored",
        "the lower right corner is on the wrong side",
        PLAN,
        "causalOffset = geometry.maskedKeys - geometry.seqLenQ",
        "causalOffset = geometry.seqLenQ - geometry.maskedKeys",
    ),
    Mutation(
        "key-lengths-off-by-one",
        "the first padded key is seen",
        ROWS,
        "let keys = plan.keyLengths[block.batch]",
        "let keys = min(plan.keyLengths[block.batch] + 1, plan.geometry.seqLenK - plan.leadingKeys)",
    ),
    Mutation(
        "query-lengths-off-by-one",
        "the first padded query attends",
        ROWS,
        "endKey[row] = query < queries ?",
        "endKey[row] = query <= queries ?",
    ),
    Mutation(
        "lengths-hide-leading-keys",
        "key lengths count the layer's own keys",
        ROWS,
        "endKey.update(repeating: plan.leadingKeys + keys, count: count)",
        "endKey.update(repeating: max(plan.leadingKeys, keys), count: count)",
    ),
    Mutation(
        "mask-hides-leading-keys",
        "a mask hides the layer's own keys",
        VISIBILITY,
        "let leading = max(leadingKeys - start, 0)\n    let first = max(start - leadingKeys, 0)",
        "let leading = 0\n    let first = start",
    ),
    Mutation(
        "visibility-stale-words",
        "a panel without hidden pairs keeps the words of another block",
        VISIBILITY,
        "    guard !keys.hidesPairs else { return }\n    for row",
        "    guard keys.isEmpty else { return }\n    for row",
    ),
    Mutation(
        "forward-stale-output",
        "a row that sees nothing multiplies what the workspace held by zero",
        FORWARD,
        "if !first.hasOutput { clearOutput(&state, first) }",
        "",
    ),
    Mutation(
        "forward-lse-in-two-units",
        "lse mixes base 2 and base e",
        FORWARD,
        "ln2 * (Double(state.reference[row]) + whole + sa_log2(fraction))",
        "ln2 * (Double(state.reference[row]) + whole) + sa_log2(fraction)",
    ),
    Mutation(
        "forward-multiplies-hidden-nan",
        "a NaN in a hidden value is multiplied by zero",
        FORWARD,
        "if block.keys.hidesPairs\n",
        "if block.keys.hidesPairs && block.start > 0\n",
    ),
    Mutation(
        "few-queries-multiply-hidden-nan",
        "few queries multiply a NaN in a hidden value by zero",
        FEW,
        "      multiplyVisible(product, scores)\n",
        "      kernels.products.multiply(product)\n",
    ),
    Mutation(
        "few-queries-rows-lost",
        "rows beyond those of the transposing tile keep the scores of another block",
        FEW,
        "if done < part.rows {",
        "if done < 1 {",
    ),
    Mutation(
        "few-queries-stale-output",
        "few queries begin with the output of another block",
        FEW,
        "    few.output.fill(rows: count, lanes: few.output.stride, 0)\n",
        "",
    ),
    Mutation(
        "backward-delta-lost",
        "dS = P * dP",
        SCORE_GRADIENT,
        "start: .row(state.minusDelta + panel.lane)",
        "start: .zero",
    ),
    Mutation(
        "backward-query-scale-missing",
        "dQ is not multiplied by scale",
        BACKWARD,
        "state.factors.update(repeating: plan.scale,",
        "state.factors.update(repeating: 1,",
    ),
    Mutation(
        "backward-key-scale-missing",
        "dK is not multiplied by scale",
        BACKWARD,
        "state.queryRows, plan.scale)",
        "state.queryRows, 1)",
    ),
    Mutation(
        "backward-gradients-not-cleared",
        "dK and dV are added to what their memory held",
        BACKWARD,
        "if task.index == 0 { clear(block, start: start) }",
        "",
    ),
    Mutation(
        "backward-does-not-wait",
        "blocks of a shared head add in any order",
        BACKWARD,
        "if let turn = task.turn, !turns.wait(head: turn, keyBlock: keyBlock, for: task.index, control) { return }",
        "",
    ),
    Mutation(
        "backward-key-alone",
        "dK without dQ is computed from stale rows",
        BACKWARD,
        "if keyGradient != nil {\n      kernels.layout.pack(",
        "if keyGradient != nil && queryGradient != nil {\n      kernels.layout.pack(",
    ),
    Mutation(
        "row-sum-skips-edge-row",
        "a row that sees one key of a group is left out of dK and dV",
        ROW_SUM,
        "rows.endKey[row] > keys.lowerBound &&",
        "rows.endKey[row] > keys.lowerBound + 1 &&",
    ),
    Mutation(
        "heads-share-wrong-keys",
        "a group's first query head is that of another group",
        PARTITION,
        "firstHead: headKV * groupSize",
        "firstHead: headKV",
    ),
    Mutation(
        "pair-sum-wrong-key-head",
        "bias gradients and weights take keys of another head",
        PAIR_SUM,
        "headKV: head / plan.geometry.groupSize",
        "headKV: head % plan.geometry.headsKV",
    ),
    Mutation(
        "pair-sum-first-batch-only",
        "the gradient of a bias that is broadcast over the batch is that of its first element",
        PAIR_SUM,
        "for other in batch..<plan.geometry.batches where",
        "for other in batch..<batch + 1 where",
    ),
    Mutation(
        "partition-drops-last-rows",
        "rows after the last whole block are not computed",
        PARTITION,
        "max((rowsPerHead + rowsPerBlock - 1) / rowsPerBlock, 1)",
        "max(rowsPerHead / rowsPerBlock, 1)",
    ),
    Mutation(
        "partition-repeats-heads",
        "heads left over are taken from the first ones",
        PARTITION,
        "head: wholeHeads + rest % sharedHeads",
        "head: rest % sharedHeads",
    ),
    Mutation(
        "operand-broadcast-lost",
        "the stride of a broadcast axis is taken",
        OPERAND,
        "axis >= 0, lengths[axis] != 1 else",
        "axis >= 0 else",
    ),
    Mutation(
        "scale-of-value-dim",
        "the default scale is 1 / sqrt(Dv)",
        PLAN,
        "1 / Double(max(geometry.headDim, 1)).squareRoot()",
        "1 / Double(max(geometry.valueDim, 1)).squareRoot()",
    ),
    Mutation(
        "scale-always-in-queries",
        "a large scale makes large queries overflow",
        PLAN,
        "let foldsIntoQuery = abs(scale) * Double.log2e <= 1",
        "let foldsIntoQuery = true",
    ),
    Mutation(
        "overlap-of-outputs-not-judged",
        "two outputs may share memory",
        JUDGE,
        "    if let other = firstOutput(overlapping: view, extent) { throw Self.overlap(of: name, other) }\n",
        "",
    ),
    Mutation(
        "overlap-with-itself-not-judged",
        "an output may have elements that share memory",
        JUDGE,
        "guard MemoryOverlap.isInjective(view) else",
        "guard MemoryOverlap.isInjective(view) || view.rank > 0 else",
    ),
    Mutation(
        "overlap-equation-off-by-one",
        "neighbours overlap and some overlaps are not found",
        OVERLAP,
        "LinearEquation(target: second.end - 1 - first.start)",
        "LinearEquation(target: second.end - first.start)",
    ),
    Mutation(
        "misalignment-not-judged",
        "elements may lie at any address",
        JUDGE,
        "guard UInt(bitPattern: data) & UInt(size - 1) == 0 else",
        "guard UInt(bitPattern: data) & UInt(0) == 0 else",
    ),
    Mutation(
        "waiting-ignores-interrupts",
        "a caller that waits for its workers cannot be interrupted",
        POOL,
        "        if left != 1 { whileWaiting() }\n",
        "",
    ),
    Mutation(
        "interrupt-not-asked",
        "the caller is never asked whether to stop",
        CONTROL,
        "guard let check, !isStopped else { return }",
        "guard let check, isStopped else { return }",
    ),
    Mutation(
        "missing-workspace-unnoticed",
        "a call whose threads had no memory succeeds",
        CONTROL,
        "guard queue.claim(participant: 0) == nil else",
        "guard queue.count >= 0 else",
    ),
    Mutation(
        "work-queue-others-left",
        "items of a thread that never came are left undone",
        "Sources/SwiftAttn/Passes/WorkQueue.swift",
        "for _ in 0..<ranges {",
        "for _ in 0..<min(ranges, 1) {",
    ),
    Mutation(
        "work-queue-one-range",
        "all threads begin with the first one's items",
        "Sources/SwiftAttn/Passes/WorkQueue.swift",
        "var range = participant < ranges ? participant : participant % max(ranges, 1)",
        "var range = participant < ranges ? 0 : participant % max(ranges, 1)",
    ),
    Mutation(
        "work-queue-last-range-short",
        "items that do not divide by the ranges are left undone",
        "Sources/SwiftAttn/Passes/WorkQueue.swift",
        "let end = range + 1 < ranges ? (range + 1) * itemsPerRange : firstShared",
        "let end = (range + 1) * itemsPerRange",
    ),
    Mutation(
        "strips-of-one-thread",
        "blocks of rows that share out evenly are queued strip by strip",
        "Sources/SwiftAttn/Linear/MatrixPartition.swift",
        "private var sharesOutRows: Bool { blocks % threads == 0 }",
        "private var sharesOutRows: Bool { false }",
    ),
    Mutation(
        "float-environment-of-caller",
        "the caller's rounding mode changes the results",
        "Sources/SwiftAttn/Passes/FloatEnvironment.swift",
        "    sa_set_float_environment(sa_default_float_environment())\n",
        "",
    ),
    Mutation(
        "pool-small-calls-wake",
        "every small call wakes threads",
        POOL,
        "now &- lastSmallCall.exchange(now, ordering: .relaxed) < Self.spinNanoseconds",
        "now >= lastSmallCall.exchange(now, ordering: .relaxed)",
    ),
    Mutation(
        "pool-few-queries-alone",
        "a few queries for many keys are thought to be little work",
        FEW,
        "rows <= mostFewQueries ? 0.2 + Double(rows)",
        "rows <= mostFewQueries ? Double(rows)",
    ),
)
