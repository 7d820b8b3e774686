"""What a step of training holds of the 13B transformer's activations, counted without a number on the meta device.

    python -m bench.training_memory [--rank 16] [--write]

One block of each kind, a section of full size, a LoRA of all linears. Counted are the bytes of tensors that are alive,
in values of the transformer's width for each token: after the forward pass, which is what a block keeps for the
backward pass; and the most at once. Attention keeps what a fused kernel keeps: its inputs, its output, a number for
each row.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.machine import machine, tell
from bench.memory_model import BOTH, FULL, section_inputs
from diffusers_helper.memory.recompute import Recompute
from diffusers_helper.models import transformer as models
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.training.network import Network, NetworkOptions

META = torch.device("meta")
WAYS = {"a double block": (1, 0, False), "a single block": (0, 1, False), "one of each, made again": (1, 1, True)}
"""Blocks of both kinds, and whether activations are made again."""


class Alive(TorchDispatchMode):
    """Bytes of the storages that were made meanwhile and are still held by somebody."""

    def __init__(self, known: Iterator[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class Fused(torch.autograd.Function):
    """Attention as a fused kernel keeps it; no numbers."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, heads, N, head width] each."""
        out, rows = torch.empty_like(query), torch.empty(query.shape[:3], dtype=torch.float32, device=META)
        ctx.save_for_backward(query, key, value, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Of the three."""
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


@contextmanager
def fused() -> Iterator[None]:
    """Meanwhile attention is ``Fused``, and the text is not cropped by numbers that there are none of."""
    attention, mask = functional.scaled_dot_product_attention, models._attention_mask
    functional.scaled_dot_product_attention = lambda query, key, value, *more, **named: Fused.apply(query, key, value)
    models._attention_mask = lambda tokens, text: torch.ones(1, 1, 1, tokens.shape[1] + text.shape[1], device=META)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention, models._attention_mask = attention, mask


def counted(doubles: int, singles: int, again: bool, rank: int) -> dict[str, float]:
    """Values of the width for each token: after the forward pass, and the most at once."""
    with META:
        torch.set_default_dtype(torch.bfloat16)
        model = FramePackTransformer(**BOTH, num_layers=doubles, num_single_layers=singles).requires_grad_(False)
        torch.set_default_dtype(torch.float32)
        inputs = section_inputs(model, FULL, META)
    if again:
        model.enable_gradient_checkpointing(Recompute(None))
    network = Network(model.train(), NetworkOptions(rank=rank, alpha=rank), META)
    known = iter([*model.parameters(), *model.buffers(), *inputs.values()])
    with META, fused(), Alive(known) as alive:
        made = model(**inputs)
        after, alive.most = alive.now, alive.now
        made.square().mean().backward()
    values = (FULL.shown_tokens + FULL.told_tokens) * model.config.num_attention_heads * model.config.attention_head_dim
    learnt = sum(parameter.nbytes for parameter in network.parameters().values())
    return {"kept": round(after / 2 / values, 1), "at once": round((alive.most - learnt) / 2 / values, 1)}


def main() -> None:
    """Count, and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    options = parser.parse_args()
    report = {
        "command": " ".join(["python -m bench.training_memory", *sys.argv[1:]]),
        "machine": machine(),
        "tokens": FULL.shown_tokens + FULL.told_tokens,
        "values of the width for each token": {way: counted(*asked, options.rank) for way, asked in WAYS.items()},
    }
    tell(report, "training_memory" if options.write else None)


if __name__ == "__main__":
    main()
