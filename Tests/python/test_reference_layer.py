"""The reference layer is right: outputs by hand and finite differences for every gradient, over options crossed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from cases import Array
from swiftattn import reference_layer
from swiftattn.reference_layer import LayerConfig, LayerGradients, Rope, parameter_shapes

_ROPES = {
    "no rope": None,
    "half-split": Rope(),
    "interleaved": Rope(interleaved=True, base=100.0),
    "partial": Rope(dim=4, scaling=2.0),
    "partial interleaved": Rope(dim=4, interleaved=True, base=10.0, scaling=0.5, key_offset=3),
    "offset": Rope(base=50.0, offset=2),
}
_HEADS: list[dict[str, int]] = [
    {"num_heads": 2, "head_dim": 6},
    {"num_heads": 4, "num_kv_heads": 2, "head_dim": 6},
    {"num_heads": 3, "num_kv_heads": 1, "head_dim": 6},
]
_WIDTHS: list[dict[str, int]] = [{}, {"kdim": 3, "vdim": 5}, {"vdim": 2}]
_BATCH, _LEN_Q, _LEN_K = 2, 3, 4
_MASKS: dict[str, dict[str, Any]] = {
    "all": {},
    "mask": {"mask": np.array([[1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)},
    "mask over keys": {"mask": np.array([[[[True]]], [[[False]]]])},
    "key_lengths": {"key_lengths": np.array([3, 1])},
    "no keys": {"key_lengths": np.array([0, 2])},
    "causal": {"causal": "top_left"},
    "bottom_right": {"causal": "bottom_right", "key_lengths": np.array([4, 2])},
    "bias": {"bias": np.array([[0.3, -1.0, 0.5, 2.0], [-np.inf, 0.1, -0.4, 1.0], [0.0, 0.2, -np.inf, 0.7]])},
    "bias over keys": {"bias": np.array([[0.3], [-1.0], [0.5]]), "causal": "top_left"},
}


@dataclass(frozen=True)
class Problem:
    """A layer, what goes into it, and the gradient of its output."""

    config: LayerConfig
    parameters: dict[str, Array]
    inputs: list[Array]
    options: dict[str, Any]
    dout: Array

    def output(self) -> Array:
        return reference_layer.layer_forward(self.config, self.parameters, *self.inputs, **self.options)[0]

    def loss(self) -> float:
        """The function whose gradients layer_backward computes."""
        return float((self.dout * self.output()).sum())

    def gradients(self) -> LayerGradients:
        _, saved = reference_layer.layer_forward(self.config, self.parameters, *self.inputs, **self.options)
        return reference_layer.layer_backward(saved, self.dout)

    def weights(self, **options: Any) -> Array:
        _, saved = reference_layer.layer_forward(self.config, self.parameters, *self.inputs, **self.options)
        return reference_layer.layer_weights(saved, **options)


def make_problem(config: LayerConfig, lengths: tuple[int, int] = (_LEN_Q, _LEN_K), **options: Any) -> Problem:
    random = np.random.default_rng(5)
    parameters = {name: random.normal(size=shape) for name, shape in parameter_shapes(config).items()}
    inputs = [
        random.normal(size=(_BATCH, length, width))
        for length, width in zip((lengths[0], lengths[1], lengths[1]), config.inputs, strict=True)
    ]
    return Problem(config, parameters, inputs, options, random.normal(size=inputs[0].shape))


# The layer by hand: one query row of one head at a time, from the formulas.


def rotated_by_hand(row: Array, rope: Rope | None, position: int) -> Array:
    """Pairs of numbers as complex ones, times exp(i angle): Su et al. 2021, section 3.2."""
    if rope is None:
        return row
    dim = rope.dim or len(row)
    result = row.copy()
    for t in range(dim // 2):
        one, other = (2 * t, 2 * t + 1) if rope.interleaved else (t, t + dim // 2)
        angle = position / rope.scaling / rope.base ** (2 * t / dim)
        turned = complex(row[one], row[other]) * complex(math.cos(angle), math.sin(angle))
        result[one], result[other] = turned.real, turned.imag
    return result


def projections_by_hand(problem: Problem) -> tuple[list[Array], list[Array]]:
    """The weight and the bias of each single head, those of q's heads first, then k's, then v's."""
    config, parameters = problem.config, problem.parameters
    dim = config.head_dim or config.embed_dim // config.num_heads
    if "in_proj_weight" in parameters:
        rows = list(parameters["in_proj_weight"])
    else:
        rows = [row for name in "qkv" for row in parameters[f"{name}_proj_weight"]]
    biases = parameters.get("in_proj_bias", np.zeros(len(rows)))
    return [np.array(rows[n : n + dim]) for n in range(0, len(rows), dim)], np.split(biases, len(rows) // dim)


def keys_and_values_by_hand(problem: Problem, batch: int, head: int) -> tuple[list[Array], list[Array]]:
    """All keys and values of one key/value head, the appended ones last."""
    config, parameters = problem.config, problem.parameters
    heads_q, heads_kv = config.num_heads, config.num_kv_heads or config.num_heads
    weights, biases = projections_by_hand(problem)
    k, v = heads_q + head, heads_q + heads_kv + head
    rope = config.rope
    start = 0 if rope is None else rope.offset if rope.key_offset is None else rope.key_offset
    keys = [
        rotated_by_hand(weights[k] @ token + biases[k], rope, start + j)
        for j, token in enumerate(problem.inputs[1][batch])
    ]
    values = [weights[v] @ token + biases[v] for token in problem.inputs[2][batch]]
    dim = len(biases[k])
    if config.add_bias_kv:
        keys.append(parameters["bias_k"][0, 0, head * dim : (head + 1) * dim])
        values.append(parameters["bias_v"][0, 0, head * dim : (head + 1) * dim])
    if config.add_zero_attn:
        keys.append(np.zeros(dim))
        values.append(np.zeros(dim))
    return keys, values


def visible_by_hand(problem: Problem, batch: int, head: int, i: int, j: int) -> bool:
    (len_q, len_k), options = (operand.shape[1] for operand in problem.inputs[:2]), problem.options
    if j >= len_k:
        return True
    shape = (_BATCH, problem.config.num_heads, len_q, len_k)
    offset = {False: len_k, "top_left": 0, True: 0, "bottom_right": len_k - len_q}[options.get("causal", False)]
    return bool(
        np.broadcast_to(options.get("mask", True), shape)[batch, head, i, j]
        and np.broadcast_to(options.get("bias", 0), shape)[batch, head, i, j] != -np.inf
        and j <= i + offset
        and j < np.broadcast_to(options.get("key_lengths", len_k), _BATCH)[batch]
    )


def layer_by_hand(problem: Problem) -> tuple[Array, Array]:
    """The output and the weights of each head."""
    config, parameters = problem.config, problem.parameters
    len_q, len_k = (operand.shape[1] for operand in problem.inputs[:2])
    heads, group = config.num_heads, config.num_heads // (config.num_kv_heads or config.num_heads)
    weights, biases = projections_by_hand(problem)
    bias = np.broadcast_to(problem.options.get("bias", 0), (_BATCH, heads, len_q, len_k))
    columns = len_k + config.add_bias_kv + config.add_zero_attn
    probabilities = np.zeros((_BATCH, heads, len_q, columns))
    output = np.zeros((_BATCH, len_q, config.embed_dim)) + parameters.get("out_proj.bias", 0)
    for b, h in itertools.product(range(_BATCH), range(heads)):
        keys, values = keys_and_values_by_hand(problem, b, h // group)
        dim = len(biases[h])
        for i, token in enumerate(problem.inputs[0][b]):
            q = rotated_by_hand(weights[h] @ token + biases[h], config.rope, i + (config.rope or Rope()).offset)
            for j in range(columns):
                if visible_by_hand(problem, b, h, i, j):
                    score = q @ keys[j] / math.sqrt(dim) + (bias[b, h, i, j] if j < len_k else 0)
                    probabilities[b, h, i, j] = math.exp(score)
            probabilities[b, h, i] /= probabilities[b, h, i].sum() or 1
            attended = sum(p * value for p, value in zip(probabilities[b, h, i], values, strict=True))
            output[b, i] += parameters["out_proj.weight"][:, h * dim : (h + 1) * dim] @ attended
    return output, probabilities


# Options crossed: each layer meets every rope and every mask (5 and the 6 ropes have no factor in common), and five
# layers in a row meet every pair of them.

_PAIRS = list(itertools.product(_MASKS.values(), _ROPES.values()))
_LAYERS = [
    LayerConfig(4, bias=bias, add_bias_kv=bias_kv, add_zero_attn=zero, **heads, **widths)
    for heads, widths, bias, bias_kv, zero in itertools.product(_HEADS, _WIDTHS, *((False, True),) * 3)
]
_CROSSED = pytest.mark.parametrize(("layer", "pairs"), [(each, _PAIRS[n % 5 :: 5]) for n, each in enumerate(_LAYERS)])


@_CROSSED
def test_output_and_weights_are_the_formulas(layer: LayerConfig, pairs: list[tuple[Any, Rope | None]]) -> None:
    for options, rope in pairs:
        problem = make_problem(replace(layer, rope=rope), **options)
        output, weights = layer_by_hand(problem)
        said = f"{options}, {problem.config}"
        np.testing.assert_allclose(problem.output(), output, rtol=1e-11, atol=1e-12, err_msg=said)
        ours = problem.weights(average_weights=False)
        np.testing.assert_allclose(ours, weights, rtol=1e-11, atol=1e-12, err_msg=said)
        np.testing.assert_allclose(problem.weights(), ours.mean(axis=1), rtol=1e-14, err_msg=said)


@_CROSSED
def test_gradients_have_the_slopes_of_the_loss(layer: LayerConfig, pairs: list[tuple[Any, Rope | None]]) -> None:
    # Along one random direction for each operand, which is cheap enough for many combinations.
    random = np.random.default_rng(6)
    for options, rope in pairs:
        problem = make_problem(replace(layer, rope=rope), **options)
        for name, operand, gradient in operands_and_gradients(problem):
            direction = random.normal(size=operand.shape) / 4
            expected, said = slope(problem, operand, direction), f"{name}, {options}, {problem.config}"
            np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-7, err_msg=said)


def operands_and_gradients(problem: Problem) -> list[tuple[str, Array, Array]]:
    gradients = problem.gradients()
    assert gradients.parameters.keys() == problem.parameters.keys()
    inputs = [*zip(("query", "key", "value"), problem.inputs, gradients[:3], strict=True)]
    if gradients.bias is not None:
        inputs.append(("bias", problem.options["bias"], gradients.bias))
    return [*inputs, *((name, operand, gradients.parameters[name]) for name, operand in problem.parameters.items())]


def slope(problem: Problem, operand: Array, direction: Array, step: float = 1e-5) -> float:
    """The slope of the loss along a direction of one of the problem's own arrays, by a central difference."""
    kept = operand.copy()
    operand[...] = kept + step * direction
    above = problem.loss()
    operand[...] = kept - step * direction
    below = problem.loss()
    operand[...] = kept
    return (above - below) / (2 * step)


def slopes(problem: Problem, operand: Array) -> Array:
    """The slopes along each element of the operand: its gradient."""
    units = np.eye(operand.size).reshape(operand.size, *operand.shape)
    return np.array([slope(problem, operand, unit) for unit in units]).reshape(operand.shape)


# Every single element, for fewer layers.
_ELEMENTWISE = [
    (LayerConfig(4, 2), {}),
    (LayerConfig(4, 2, bias=False, kdim=3, vdim=2, rope=Rope()), _MASKS["mask"]),
    (LayerConfig(4, 4, 2, 2, add_bias_kv=True, rope=Rope(interleaved=True, offset=3)), _MASKS["bottom_right"]),
    (LayerConfig(3, 2, 1, 6, add_zero_attn=True, rope=Rope(dim=4, key_offset=2)), _MASKS["no keys"]),
    (LayerConfig(4, 2, kdim=3, add_bias_kv=True, add_zero_attn=True), _MASKS["bias over keys"]),
]


@pytest.mark.parametrize(("config", "options"), _ELEMENTWISE)
def test_gradients_are_central_differences(config: LayerConfig, options: dict[str, Any]) -> None:
    problem = make_problem(config, **options)
    for name, operand, gradient in operands_and_gradients(problem):
        assert gradient.shape == operand.shape, name
        np.testing.assert_allclose(gradient, slopes(problem, operand), rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("rope", _ROPES.values(), ids=_ROPES)
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"key_lengths": np.array([3, 1])}], ids=str)
def test_self_attention_sums_the_gradients_of_its_one_input(rope: Rope | None, options: dict[str, Any]) -> None:
    config = LayerConfig(6, 2, 1, 6, add_bias_kv=True, add_zero_attn=True, rope=rope)
    problem = make_problem(config, (3, 3), **options)
    problem = replace(problem, inputs=[problem.inputs[0]] * 3)
    gradients = problem.gradients()
    total, expected = gradients.query + gradients.key + gradients.value, slopes(problem, problem.inputs[0])
    np.testing.assert_allclose(total, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(problem.output(), layer_by_hand(problem)[0], rtol=1e-11, atol=1e-12)


def test_plain_layer_is_pytorchs_formula() -> None:
    problem = make_problem(LayerConfig(6, 3))
    (query, key, value), parameters = problem.inputs, problem.parameters
    weights = parameters["in_proj_weight"].reshape(3, 3, 2, 6)  # of q, k, v; head; number; input
    biases = parameters["in_proj_bias"].reshape(3, 3, 1, 2)
    q, k, v = (
        np.einsum("bse,hde->bhsd", operand, weight) + bias
        for operand, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    exponentials = np.exp(np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(2))
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    out_weight = parameters["out_proj.weight"].reshape(6, 3, 2)
    expected = np.einsum("bhij,bhjd,ehd->bie", probabilities, v, out_weight) + parameters["out_proj.bias"]
    np.testing.assert_allclose(problem.output(), expected, rtol=1e-12)
    np.testing.assert_allclose(problem.weights(average_weights=False), probabilities, rtol=1e-12)


def test_parameters_have_pytorchs_names_and_shapes() -> None:
    fused = parameter_shapes(LayerConfig(8, 2, add_bias_kv=True))
    appended = {"bias_k": (1, 1, 8), "bias_v": (1, 1, 8)}
    out = {"out_proj.weight": (8, 8), "out_proj.bias": (8,)}
    assert fused == {"in_proj_weight": (24, 8), "in_proj_bias": (24,), **appended, **out}
    apart = parameter_shapes(LayerConfig(8, 2, vdim=5, bias=False))
    weights = {"q_proj_weight": (8, 8), "k_proj_weight": (8, 8), "v_proj_weight": (8, 5)}
    assert apart == {**weights, "out_proj.weight": (8, 8)}
    grouped = parameter_shapes(LayerConfig(8, 4, 2, 3, kdim=8, vdim=8, bias=False))
    assert grouped == {"in_proj_weight": (24, 8), "out_proj.weight": (8, 12)}


# Rotary positions, seen through a layer whose projections are identities, so that its scores are those of its inputs.


def scores_of(rope: Rope | None, query: Array, key: Array) -> Array:
    """q_i . k_j after the rotation, from log p_ij of one head."""
    dim = query.shape[-1]
    config = LayerConfig(dim, 1, bias=False, add_zero_attn=True, rope=rope)
    parameters = {"in_proj_weight": np.vstack([np.eye(dim)] * 3), "out_proj.weight": np.eye(dim)}
    _, saved = reference_layer.layer_forward(config, parameters, query, key, key)
    log_weights = np.log(reference_layer.layer_weights(saved))
    return (log_weights[..., :-1] - log_weights[..., -1:]) * math.sqrt(dim)  # the zero token's score is 0


_TURNING = {name: rope for name, rope in _ROPES.items() if rope is not None}


@pytest.mark.parametrize("rope", _TURNING.values(), ids=_TURNING)
def test_rope_keeps_norms_and_sees_differences_of_positions_only(rope: Rope) -> None:
    random = np.random.default_rng(8)
    row, other = random.normal(size=(2, 6))
    rows, others = np.tile(row, (1, 5, 1)), np.tile(other, (1, 5, 1))
    rope = replace(rope, key_offset=None)
    norms = np.diagonal(scores_of(rope, rows, rows)[0])
    np.testing.assert_allclose(norms, row @ row, rtol=1e-11)
    scores = scores_of(rope, rows, others)[0]
    for i, j in itertools.product(range(4), repeat=2):
        np.testing.assert_allclose(scores[i + 1, j + 1], scores[i, j], rtol=1e-10, atol=1e-12)
    assert len({round(scores[i, 0], 9) for i in range(5)}) == 5
    elsewhere = replace(rope, offset=rope.offset + 11)
    np.testing.assert_allclose(scores_of(elsewhere, rows, others)[0], scores, rtol=1e-10, atol=1e-12)
    decoding = replace(rope, offset=rope.offset + 4, key_offset=rope.offset)  # the fifth query against all keys
    np.testing.assert_allclose(scores_of(decoding, rows[:, :1], others)[0, 0], scores[4], rtol=1e-10, atol=1e-12)


# The rest.


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_tokens_that_nothing_attends_to_reach_no_result(poison: float) -> None:
    config = LayerConfig(4, 2, kdim=3, vdim=5, add_bias_kv=True, rope=Rope())
    clean = make_problem(config, key_lengths=np.array([3, 1]))
    query, key, value = (operand.copy() for operand in clean.inputs)
    key[0, 3:] = value[0, 3:] = key[1, 1:] = value[1, 1:] = poison
    poisoned = replace(clean, inputs=[query, key, value])
    np.testing.assert_array_equal(poisoned.output(), clean.output())
    np.testing.assert_array_equal(poisoned.weights(), clean.weights())
    pairs = zip(*(operands_and_gradients(problem) for problem in (clean, poisoned)), strict=True)
    for (name, _, expected), (_, _, gradient) in pairs:
        np.testing.assert_array_equal(gradient, expected, err_msg=name)
    assert not poisoned.gradients().key[1, 1:].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_operands_keep_their_dtype_and_batch(dtype: Any, batch: tuple[int, ...]) -> None:
    config = LayerConfig(4, 2, 1, add_bias_kv=True, add_zero_attn=True, rope=Rope())
    problem = make_problem(config, causal="top_left")
    parameters = {name: parameter.astype(dtype) for name, parameter in problem.parameters.items()}
    inputs = [np.broadcast_to(operand[0].astype(dtype), (*batch, *operand.shape[1:])) for operand in problem.inputs]
    dout = np.broadcast_to(problem.dout[0].astype(dtype), inputs[0].shape)
    cast = replace(problem, parameters=parameters, inputs=inputs, dout=dout)
    for name, operand, gradient in operands_and_gradients(cast):
        assert (gradient.dtype, gradient.shape) == (dtype, operand.shape), name
    assert cast.output().dtype == cast.weights().dtype == dtype
    np.testing.assert_allclose(cast.output(), np.broadcast_to(problem.output()[0], inputs[0].shape), rtol=1e-4)


_TORCH = [
    LayerConfig(6, 3),
    LayerConfig(6, 2, bias=False),
    LayerConfig(6, 2, kdim=3, vdim=5),
    LayerConfig(6, 3, add_bias_kv=True),
    LayerConfig(6, 3, add_zero_attn=True),
    LayerConfig(6, 3, kdim=4, add_bias_kv=True, add_zero_attn=True),
]


@pytest.mark.parametrize("config", _TORCH)
@pytest.mark.parametrize("options", ["all", "mask", "key_lengths", "causal", "bias"])
def test_torch_agrees(config: LayerConfig, options: str) -> None:
    """Not required in CI."""
    torch = pytest.importorskip("torch")
    problem = make_problem(config)
    problem.options.update(_MASKS[options])
    given, wide = problem.options, np.ones((_LEN_Q, _LEN_K), bool)
    if options == "mask":
        given["mask"] = given["mask"] | [True, False, False, False]  # torch has nan for a row without keys
    # torch's masks are True where a pair is left out.
    left_out = {"mask": ~given.get("mask", wide), "causal": ~np.tril(wide), "bias": given.get("bias")}.get(options)
    padding = np.arange(_LEN_K) >= given["key_lengths"][:, None] if options == "key_lengths" else None

    names = ("embed_dim", "num_heads", "bias", "add_bias_kv", "add_zero_attn", "kdim", "vdim")
    arguments = {name: getattr(config, name) for name in names}
    module = torch.nn.MultiheadAttention(**arguments, batch_first=True, dtype=torch.float64)
    module.load_state_dict({name: torch.tensor(parameter) for name, parameter in problem.parameters.items()})
    inputs = [torch.tensor(operand, requires_grad=True) for operand in problem.inputs]
    output, weights = module(
        *inputs,
        attn_mask=None if left_out is None else torch.tensor(left_out),
        key_padding_mask=None if padding is None else torch.tensor(padding),
        average_attn_weights=False,
    )
    output.backward(torch.tensor(problem.dout))
    np.testing.assert_allclose(problem.output(), output.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(problem.weights(average_weights=False), weights.detach().numpy(), rtol=1e-10, atol=1e-12)
    named = dict(module.named_parameters())
    theirs = [operand.grad for operand in (*inputs, *(named[name] for name in problem.parameters))]
    for (name, _, gradient), their in zip(operands_and_gradients(problem), theirs, strict=True):
        np.testing.assert_allclose(gradient, their.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
