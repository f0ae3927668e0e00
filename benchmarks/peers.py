"""Other implementations of attention, for the ratio. Only those that can be imported take part.

A peer prepares a case and returns two functions: what is timed (it returns when the result is complete, in the peer's
own containers), and one that turns that result into a NumPy array (B, H, Sq, D) for comparison with ours.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cases import Array, Case, Inputs

_LARGEST_SCORES = 1 << 29  # bytes: beyond, the naive implementation takes seconds and gigabytes

Prepared = tuple[Callable[[], Any], Callable[[Any], Array]]


class Peer:
    """What the benchmark asks of another implementation."""

    name: str
    modules: tuple[str, ...]

    def __init__(self) -> None:
        """Raises ImportError where the peer is not installed."""
        self.imported = [importlib.import_module(module) for module in self.modules]

    def version(self) -> str:
        """The version in use."""
        return f"{self.name} {self.imported[0].__version__}"

    def supports(self, case: Case) -> bool:
        """Whether it can run the case as users would."""
        raise NotImplementedError

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        """Does all that a user does once; the timed function does the rest."""
        raise NotImplementedError


class Torch(Peer):
    """torch.nn.functional.scaled_dot_product_attention, differentiated by torch.autograd."""

    name = "torch"
    modules = ("torch",)

    def supports(self, case: Case) -> bool:
        """Everything."""
        return True

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        """Tensors share the memory of the arrays."""
        (torch,) = self.imported
        torch.set_num_threads(case.threads)
        q, k, v = (torch.from_numpy(array) for array in (inputs.q, inputs.k, inputs.v))
        added = inputs.bias if inputs.bias is not None else inputs.key_mask()
        mask = None if added is None else torch.from_numpy(added)

        def forward() -> Any:
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=case.causal, enable_gqa=case.Hkv != case.H
            )

        def infer() -> Any:
            with torch.inference_mode():
                return forward()

        if inputs.dout is None:
            return infer, lambda result: result.numpy()
        dout = torch.from_numpy(inputs.dout)
        for operand in (q, k, v):
            operand.requires_grad_(True)

        def train() -> Any:
            out = forward()
            return out.detach(), torch.autograd.grad(out, (q, k, v), dout)

        return train, lambda result: result[0].numpy()


class OnnxRuntime(Peer):
    """ONNX Runtime's MultiHeadAttention, on its own layout (B, S, H * D); it has no backward."""

    name = "onnxruntime"
    modules = ("onnxruntime", "onnx")

    def supports(self, case: Case) -> bool:
        """The forward pass in float32, without grouped heads."""
        return case.op == "forward" and case.dtype == "f32" and case.Hkv == case.H

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        """Inputs are bound beforehand."""
        runtime = self.imported[0]
        feeds = {
            name: np.ascontiguousarray(array.swapaxes(1, 2)).reshape(case.B, array.shape[2], -1)
            for name, array in (("q", inputs.q), ("k", inputs.k), ("v", inputs.v))
        }
        operands = ["q", "k", "v", "", "", ""]
        mask = inputs.key_mask()
        if mask is not None:
            operands[4], feeds["key_mask"] = "key_mask", mask[:, 0, 0].astype(np.int32)
        if inputs.bias is not None:
            operands[5], feeds["bias"] = "bias", inputs.bias
        session = self._session(case, operands, feeds)
        binding = session.io_binding()
        values = {name: runtime.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("out", "cpu")

        def run() -> Any:
            session.run_with_iobinding(binding)
            return binding.get_outputs()[0]

        def to_array(result: Any) -> Array:
            out: Array = result.numpy().reshape(case.B, case.Sq, case.H, case.D).swapaxes(1, 2)
            return out

        return run, to_array

    def _session(self, case: Case, operands: list[str], feeds: dict[str, Array]) -> Any:
        runtime, onnx = self.imported
        helper = onnx.helper
        node = helper.make_node(
            "MultiHeadAttention",
            operands,
            ["out"],
            domain="com.microsoft",
            num_heads=case.H,
            unidirectional=int(case.causal),
        )
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ]
        out = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        graph = helper.make_graph([node], "attention", inputs, [out])
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = case.threads
        options.log_severity_level = 3
        return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class NaiveNumpy(Peer):
    """What one writes in NumPy: the whole array of scores, on the threads that its BLAS takes."""

    name = "numpy"
    modules = ("numpy",)

    def supports(self, case: Case) -> bool:
        """Scores that fit comfortably."""
        return case.score_bytes() <= _LARGEST_SCORES and case.Hkv == case.H

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        """The causal mask is made once."""
        q, k, v, dout = inputs.q, inputs.k, inputs.v, inputs.dout
        scale = q.dtype.type(case.D**-0.5)
        mask = np.tri(case.Sq, case.Sk, dtype=bool) if case.causal else inputs.key_mask()

        def forward() -> tuple[Array, Array]:
            p = q @ k.swapaxes(-1, -2)
            p *= scale
            if inputs.bias is not None:
                p += inputs.bias
            if mask is not None:
                np.copyto(p, -np.inf, where=~mask)
            p -= p.max(axis=-1, keepdims=True)
            np.exp(p, out=p)
            p /= p.sum(axis=-1, keepdims=True)
            return p @ v, p

        if dout is None:
            return forward, lambda result: result[0]

        def train() -> tuple[Array, Array, Array, Array]:
            out, p = forward()
            dv = p.swapaxes(-1, -2) @ dout
            ds = dout @ v.swapaxes(-1, -2)
            ds -= np.sum(dout * out, axis=-1, keepdims=True)
            ds *= p
            ds *= scale
            return out, ds @ k, ds.swapaxes(-1, -2) @ q, dv

        return train, lambda result: result[0]


def installed_peers() -> list[Peer]:
    """Every peer that can be imported here."""
    peers: list[Peer] = []
    for kind in (Torch, OnnxRuntime, NaiveNumpy):
        with contextlib.suppress(ImportError):
            peers.append(kind())
    return peers
