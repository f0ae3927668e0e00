"""OpenVINO's CPU plugin: scaled_dot_product_attention, and the layer written with it; it has no backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from cases import Array, Case, Inputs, LayerInputs

from .peer import Peer, Prepared


class OpenVino(Peer):
    """Inputs are bound beforehand."""

    name = "openvino"
    modules = ("openvino", "openvino.opset13")

    def supports(self, case: Case) -> bool:
        """The forward pass in float32, without grouped heads."""
        return not case.trains and case.dtype == "f32" and case.Hkv == case.H

    def prepare_attention(self, case: Case, inputs: Inputs) -> Prepared:
        """One node."""
        operators = self.imported[1]
        added = inputs.bias if inputs.bias is not None else inputs.key_mask()
        feeds = [inputs.q, inputs.k, inputs.v, *([] if added is None else [added])]
        operands = [operators.parameter(array.shape, array.dtype) for array in feeds]
        out = operators.scaled_dot_product_attention(*operands, causal=case.causal)
        return self._prepared(case, out, operands, feeds)

    def prepare_layer(self, case: Case, inputs: LayerInputs) -> Prepared:
        """The parameters are constants."""
        operators = self.imported[1]
        split, swap = np.array([case.B, case.Sq, case.H, case.D]), np.array([0, 2, 1, 3])
        x = operators.parameter(inputs.x.shape, inputs.x.dtype)

        def linear(rows: Any, weight: Array, bias: Array) -> Any:
            return operators.add(operators.matmul(rows, operators.constant(weight), False, True), bias)

        weights, biases = (np.split(inputs.parameters[name], 3) for name in ("in_proj_weight", "in_proj_bias"))
        projected = [linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        q, k, v = (operators.transpose(operators.reshape(rows, split, False), swap) for rows in projected)
        heads = operators.transpose(operators.scaled_dot_product_attention(q, k, v), swap)
        merged = operators.reshape(heads, np.array(inputs.x.shape), False)
        out = linear(merged, inputs.parameters["out_proj.weight"], inputs.parameters["out_proj.bias"])
        return self._prepared(case, out, [x], [inputs.x])

    def _prepared(self, case: Case, out: Any, operands: list[Any], feeds: list[Array]) -> Prepared:
        openvino = self.imported[0]
        # Without the hint, processors that have bfloat16 compute float32 models in it.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": case.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        model = openvino.Core().compile_model(openvino.Model([out], operands), "CPU", settings)
        request = model.create_infer_request()
        for index, array in enumerate(feeds):
            request.set_input_tensor(index, openvino.Tensor(array))

        def run() -> Any:
            request.infer()
            return request.get_output_tensor(0)

        return run, lambda result: np.array(result.data)
