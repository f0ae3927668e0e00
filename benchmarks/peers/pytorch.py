"""PyTorch: scaled_dot_product_attention and nn.MultiheadAttention, differentiated by torch.autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cases import Array, Case, Inputs, LayerInputs

from .peer import Peer, Prepared


class Torch(Peer):
    """Tensors share the memory of the arrays; the layer has a copy of the parameters."""

    name = "torch"
    modules = ("torch",)

    def supports(self, case: Case) -> bool:
        """Everything."""
        return True

    def prepare_attention(self, case: Case, inputs: Inputs) -> Prepared:
        """scaled_dot_product_attention, of whichever backend torch chooses."""
        (torch,) = self.imported
        q, k, v = (torch.from_numpy(array) for array in (inputs.q, inputs.k, inputs.v))
        added = inputs.bias if inputs.bias is not None else inputs.key_mask()
        mask = None if added is None else torch.from_numpy(added)

        def forward() -> Any:
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=case.causal, enable_gqa=case.Hkv != case.H
            )

        return self._prepared(case, forward, (q, k, v), inputs.dout)

    def prepare_layer(self, case: Case, inputs: LayerInputs) -> Prepared:
        """nn.MultiheadAttention, in evaluation mode unless it trains, without the weights that nobody asked for."""
        (torch,) = self.imported
        x = torch.from_numpy(inputs.x)
        layer = torch.nn.MultiheadAttention(case.embed_dim, case.H, batch_first=True, dtype=x.dtype)
        layer.load_state_dict({name: torch.from_numpy(array) for name, array in inputs.parameters.items()})
        layer.train(case.trains)

        def forward() -> Any:
            return layer(x, x, x, need_weights=False)[0]

        return self._prepared(case, forward, (x, *layer.parameters()), inputs.dout)

    def _prepared(
        self, case: Case, forward: Callable[[], Any], variables: Sequence[Any], dout: Array | None
    ) -> Prepared:
        (torch,) = self.imported
        torch.set_num_threads(case.threads)

        def infer() -> Any:
            with torch.inference_mode():
                return forward()

        if dout is None:
            return infer, lambda result: result.numpy()
        out_gradient = torch.from_numpy(dout)
        for variable in variables:
            variable.requires_grad_(True)

        def train() -> Any:
            out = forward()
            return out.detach(), torch.autograd.grad(out, variables, out_gradient)

        return train, lambda result: result[0].numpy()
