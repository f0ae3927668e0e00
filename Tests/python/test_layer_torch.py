"""The layer is torch.nn.MultiheadAttention: the same state dict gives the same output, weights and gradients.

Not required in CI.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import swiftattn
from cases import Array
from helpers import Results, assert_all_accurate, assert_same_bits
from layer_cases import LayerCase, LayerProblem, compute_layer, compute_reference, make_problem
from tolerances import WIDER

torch: Any = pytest.importorskip("torch")

pytestmark = [pytest.mark.usefixtures("isa"), pytest.mark.torch]

PLAIN = LayerCase((19, 19), (3, 3, 7), 21, batch=(2,))
CASES: dict[str, LayerCase] = {
    "self": PLAIN,
    "self, no biases": LayerCase((19, 19), (2, 2, 8), 16, biases=False),
    "memory": LayerCase((5, 33), (4, 4, 5), 20, "memory"),
    "three": LayerCase((19, 19), (3, 3, 7), 21, "three", bias_kv=True),
    "apart": LayerCase((33, 5), (2, 2, 11), 22, "apart", zero_attn=True),
    "one sequence": LayerCase((9, 14), (3, 3, 4), 12, "fused", (), bias_kv=True, zero_attn=True),
    "everything": LayerCase((9, 14), (3, 3, 4), 12, "apart", (3,), biases=False, bias_kv=True, zero_attn=True),
}
MASKS = ("all", "mask", "masks of heads", "key_lengths", "causal", "bias", "bias and key_lengths")


def with_masks(problem: LayerProblem, name: str) -> LayerProblem:
    """Options that torch has too. No query may see nothing: torch gives nan there."""
    random = np.random.default_rng(2)
    *batch, len_q, _ = problem.given[0].shape
    len_k = problem.given[min(1, len(problem.given) - 1)].shape[-2]
    heads = problem.config.num_heads
    mask = random.random((len_q, len_k)) < 0.6
    mask[:, 0] = True
    options: dict[str, dict[str, Any]] = {
        "all": {},
        "mask": {"mask": mask},
        "masks of heads": {"mask": np.stack([np.roll(mask, h, axis=0) for h in range(heads)])},
        "key_lengths": {"key_lengths": random.integers(1, len_k, batch, endpoint=True)},
        "causal": {"causal": "top_left"},
        "bias": {"bias": random.normal(size=(heads, len_q, len_k)).astype(problem.dout.dtype)},
    }
    options["bias and key_lengths"] = options["bias"] | options["key_lengths"]
    problem.options.update(options[name])
    return problem


def run_torch(problem: LayerProblem) -> Results:
    """The results that compute_layer has, of torch."""
    config, options, dtype = problem.config, problem.options, getattr(torch, problem.dout.dtype.name)
    names = ("embed_dim", "num_heads", "bias", "add_bias_kv", "add_zero_attn", "kdim", "vdim")
    module = torch.nn.MultiheadAttention(
        **{name: getattr(config, name) for name in names}, batch_first=True, dtype=dtype
    )
    module.load_state_dict({name: torch.tensor(parameter) for name, parameter in problem.parameters.items()})
    given = [torch.tensor(operand, requires_grad=True) for operand in problem.given]
    operands = [*given, *given[-1:] * (3 - len(given))]
    masks = torch_masks(problem, operands[0].shape[:-2], operands[1].shape[-2])
    output, by_head = module(*operands, **masks, average_attn_weights=False)
    output.backward(torch.tensor(problem.dout))
    results = {"output": output, "weights": by_head.mean(axis=-3), "weights_of_heads": by_head}
    results |= {name: operand.grad for name, operand in zip(("query", "key", "value"), given, strict=False)}
    results |= {name: parameter.grad for name, parameter in module.named_parameters()}
    assert options.keys() <= {"mask", "bias", "causal", "key_lengths"}
    return {name: result.detach().numpy() for name, result in results.items()}


def torch_masks(problem: LayerProblem, batch: tuple[int, ...], len_k: int) -> dict[str, Any]:
    """The options as torch takes them: True where a pair is left out; one for each head of each sequence."""
    options, len_q, heads = problem.options, problem.dout.shape[-2], problem.config.num_heads
    masks: dict[str, Array] = {}
    if "mask" in options:
        masks["attn_mask"] = ~options["mask"]
    if "causal" in options:
        masks["attn_mask"] = ~np.tri(len_q, len_k, dtype=bool)
    if "bias" in options:
        masks["attn_mask"] = options["bias"]
    if masks and masks["attn_mask"].ndim == 3:
        of_batch = np.broadcast_to(masks["attn_mask"], (*batch, heads, len_q, len_k))
        masks["attn_mask"] = of_batch.reshape(-1, len_q, len_k)
    if "key_lengths" in options:
        beyond = np.arange(len_k) >= np.asarray(options["key_lengths"])[..., None]
        # torch wants both of its masks to be of one dtype.
        masks["key_padding_mask"] = np.where(beyond, -np.inf, 0).astype(problem.dout.dtype) if masks else beyond
    return {name: torch.tensor(mask) for name, mask in masks.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_all_results_agree(case: LayerCase, masks: str, dtype: Any) -> None:
    problem = with_masks(make_problem(case, dtype), masks)
    theirs = run_torch(problem)
    # torch takes the part of plain NumPy: our errors are at most twice its own, and the floor.
    truth = compute_reference(problem.cast(WIDER[dtype]))
    assert_all_accurate(compute_layer(problem.layer(), problem), (theirs, truth))


@pytest.mark.parametrize("options", [{}, {"kdim": 5, "bias": False}, {"add_bias_kv": True, "vdim": 3}], ids=str)
def test_state_dicts_are_exchanged_both_ways(options: dict[str, Any]) -> None:
    theirs = torch.nn.MultiheadAttention(12, 4, **options)
    ours = swiftattn.MultiHeadAttention(12, 4, **options, dtype=np.float64, seed=0)
    ours.load_state_dict(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.parameters[name], tensor.numpy(), err_msg=name)
    other = swiftattn.MultiHeadAttention(12, 4, **options, seed=1)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in other.state_dict().items()})
    assert_same_bits({name: t.numpy() for name, t in theirs.state_dict().items()}, dict(other.parameters))


def test_tensors_go_in_as_they_are() -> None:
    problem = make_problem(PLAIN)
    layer = problem.layer()
    expected = layer(*problem.given)
    assert_same_bits({"output": layer(*map(torch.from_numpy, problem.given))}, {"output": expected})
    with pytest.raises(TypeError, match=r"out_proj\.bias"):
        layer.load_state_dict({"out_proj.bias": torch.zeros(21, requires_grad=True)}, strict=False)
