"""Blocks in training: each is computed again in the backward pass, from its inputs, with weights that may pass through.

Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174) by PyTorch's own function. Blocks that are
swapped come once more for it, from the last to the first: they are frozen, so nothing is copied back.

    recompute = Recompute(swap, len(blocks))
    transformer.block_source = recompute.blocks
    transformer.enable_gradient_checkpointing(recompute)
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from .swap import BlockSwap


class Recompute:
    """How a transformer's blocks run in training.

    Args:
        swap: through which they pass; None where all are on the device.
        inputs_in_ram: their inputs wait for the backward pass in RAM.
    """

    def __init__(self, swap: BlockSwap | None, inputs_in_ram: bool = False) -> None:
        self._swap, self._inputs_in_ram = swap, inputs_in_ram
        self._pass: Generator[nn.Module, None, None] | None = None

    def blocks(self) -> Generator[nn.Module, None, None]:
        """Those of one forward pass. Where gradients are wanted, the swap's pass goes on backwards afterwards."""
        if self._swap is None:
            raise RuntimeError("no blocks pass through")
        if not torch.is_grad_enabled():
            with closing(self._swap()) as blocks:
                yield from blocks
            return
        if self._pass is not None:
            next(self._pass, None)  # the last block on the way back is done with: its pass ends whole
        self._pass = self._swap.there_and_back()
        for _ in range(self._swap.count):
            yield next(self._pass)

    def __call__(self, block: nn.Module, *inputs: Any) -> Any:
        """What ``block`` makes of ``inputs``; backwards it is computed again, with the same chance."""
        with save_on_cpu(pin_memory=torch.cuda.is_available()) if self._inputs_in_ram else nullcontext():
            return checkpoint(
                block, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), self._again(block))
            )

    def _again(self, block: nn.Module) -> AbstractContextManager[None]:
        return self._brought_back(block) if self._swap else nullcontext()

    @contextmanager
    def _brought_back(self, block: nn.Module) -> Iterator[None]:
        """The block's weights are on the device. They stay until the next block is wanted, so for its backward pass."""
        found = next(self._pass, None) if self._pass else None
        if found is not block:
            raise RuntimeError("blocks are wanted in another order than from the last to the first")
        yield
