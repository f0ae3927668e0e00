"""ONNX Runtime: MultiHeadAttention, and for the layer Attention, which fuses the projections; it has no backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from cases import Array, Case, Inputs, LayerInputs

from .peer import Peer, Prepared

_CONTRIBUTED = "com.microsoft"  # the domain of the operators that are ONNX Runtime's own


class OnnxRuntime(Peer):
    """Inputs are bound beforehand, in the layout of its operators, (B, S, H * D)."""

    name = "onnxruntime"
    modules = ("onnxruntime", "onnx")

    def supports(self, case: Case) -> bool:
        """The forward pass in float32, without grouped heads."""
        return not case.trains and case.dtype == "f32" and case.Hkv == case.H

    def prepare_attention(self, case: Case, inputs: Inputs) -> Prepared:
        """One node."""
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
        node = self.imported[1].helper.make_node(
            "MultiHeadAttention",
            operands,
            ["out"],
            domain=_CONTRIBUTED,
            num_heads=case.H,
            unidirectional=int(case.causal),
        )

        def to_array(result: Any) -> Array:
            out: Array = result.numpy().reshape(case.B, case.Sq, case.H, case.D).swapaxes(1, 2)
            return out

        return self._run(case, [node], feeds, {}), to_array

    def prepare_layer(self, case: Case, inputs: LayerInputs) -> Prepared:
        """The parameters are constants, the weights transposed: its products are x W."""
        helper = self.imported[1].helper
        nodes = [
            helper.make_node("Attention", ["x", "w_in", "b_in"], ["merged"], domain=_CONTRIBUTED, num_heads=case.H),
            helper.make_node("MatMul", ["merged", "w_out"], ["product"]),
            helper.make_node("Add", ["product", "b_out"], ["out"]),
        ]
        constants = {
            "w_in": np.ascontiguousarray(inputs.parameters["in_proj_weight"].T),
            "b_in": inputs.parameters["in_proj_bias"],
            "w_out": np.ascontiguousarray(inputs.parameters["out_proj.weight"].T),
            "b_out": inputs.parameters["out_proj.bias"],
        }
        return self._run(case, nodes, {"x": inputs.x}, constants), lambda result: result.numpy()

    def _run(self, case: Case, nodes: list[Any], feeds: dict[str, Array], constants: dict[str, Array]) -> Any:
        """The function that computes "out" of the graph."""
        runtime = self.imported[0]
        session = self._session(case, nodes, feeds, constants)
        binding = session.io_binding()
        values = {name: runtime.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("out", "cpu")

        def run() -> Any:
            session.run_with_iobinding(binding)
            return binding.get_outputs()[0]

        return run

    def _session(self, case: Case, nodes: list[Any], feeds: dict[str, Array], constants: dict[str, Array]) -> Any:
        runtime, onnx = self.imported
        helper = onnx.helper
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ]
        out = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
        initializers = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(_CONTRIBUTED, 1)]
        graph = helper.make_graph(nodes, "attention", inputs, [out], initializers)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = case.threads
        options.log_severity_level = 3
        return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
