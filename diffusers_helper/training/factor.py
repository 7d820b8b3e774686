"""A LoRA as it is trained: in the numbers of its inputs, and with as little kept and passed over as can be.

For the gradient of its weight a linear keeps its input. Where this is a GELU's output, the GELU keeps its own input
too, which is as large: one of the two is enough. Shapes: B examples, N tokens, I and O widths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional

LAST = 2**64 - 1
"""The last dimension, as autograd keeps it where -1 was given."""


class Factor(nn.Linear):
    """The same linear without a bias."""

    def __init__(self, of: nn.Linear, keeps: Callable[[], bool]) -> None:
        """``keeps``: whether tensors are kept for the backward pass, and not all of a block made again in it."""
        super().__init__(of.in_features, of.out_features, bias=False, device="meta")
        self.weight, self._keeps = of.weight, keeps

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight.to(input.dtype)
        by_us = self._keeps() and not torch.compiler.is_compiling()  # a compiler decides by itself what is kept
        make = made_again(input) if by_us else None
        if make is None:
            return functional.linear(input, weight)
        product: Tensor = _Product.apply(input, weight, make)
        return product


class Added(LoraVariant):
    """The LoRA's part is added to what the linear made by the product itself; peft's own way is a product, a scaling
    and a sum, each a pass over the whole output."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """[B, N, I] and [B, N, O] to [B, N, O]."""
        down = module.lora_A[active_adapter](x).to(result.dtype).flatten(0, -2)
        up = module.lora_B[active_adapter].weight.to(result.dtype)
        whole = torch.addmm(result.flatten(0, -2), down, up.t(), alpha=module.scaling[active_adapter])
        return whole.view(result.shape)


class _Product(torch.autograd.Function):
    """A linear that makes its input again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, make: Callable[[], list[Tensor]]) -> Tensor:
        """[B, N, I] and [O, I] to [B, N, O]."""
        ctx.save_for_backward(weight)
        ctx.make = make
        return functional.linear(input, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,), (weight,) = gradients, ctx.saved_tensors
        rows = gradient.flatten(0, -2).t()
        of_weight = torch.cat([rows @ part.flatten(0, -2) for part in ctx.make()], dim=1)
        return gradient @ weight, of_weight, None


def made_again(tensor: Tensor) -> Callable[[], list[Tensor]] | None:
    """Gives the same bits once more in the backward pass, where the tensor is a GELU's output, or was put together of
    one and others along its last dimension, which are copied; in these parts. None elsewhere."""
    node: Any = tensor.grad_fn
    if _is_gelu(node):
        return lambda: [_gelu(node)]
    if node is None or node.name() != "CatBackward0" or node._saved_dim not in (tensor.dim() - 1, LAST):
        return None
    parts = [part for part, _ in node.next_functions]
    if None in parts or not any(map(_is_gelu, parts)):
        return None
    pieces = tensor.detach().split([part._input_metadata[0].shape[-1] for part in parts], dim=-1)
    kept = [part if _is_gelu(part) else piece.clone() for part, piece in zip(parts, pieces, strict=True)]
    return lambda: [each if isinstance(each, Tensor) else _gelu(each) for each in kept]


def _is_gelu(node: Node | None) -> bool:
    return node is not None and node.name() == "GeluBackward0"


def _gelu(node: Any) -> Tensor:
    """What the node's GELU has made, by what it keeps."""
    return functional.gelu(node._saved_self, approximate=node._saved_approximate)
