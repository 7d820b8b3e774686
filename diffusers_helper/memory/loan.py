"""Weights that live in RAM and are lent to the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import tensors, vram


class Loan:
    """A model whose weights stay in RAM; what is on the GPU meanwhile is a copy, dropped when the model leaves."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._own: list[tuple[Tensor, Tensor]] = []

    @property
    def away(self) -> bool:
        """Whether the model is on another device."""
        return bool(self._own)

    @property
    def bytes_away(self) -> int:
        """What it takes of the other device."""
        return sum(own.nbytes for _, own in self._own)

    @torch.inference_mode(False)
    def go(self, device: torch.device) -> None:
        """Copy all weights to ``device``; whatever fails on the way, the model is back in RAM."""
        if self.away:
            return
        try:
            for tensor, copy in tensors.copies(tensors.tensors_of(self.model), device):
                self._own.append((tensor, tensor.data))
                tensor.data = copy
        except BaseException:
            self.leave()
            raise

    @torch.inference_mode(False)
    def leave(self) -> None:
        """Drop the copies. Nothing is copied back."""
        if not self.away:
            return
        for tensor, own in self._own:
            tensor.data = own
        self._own.clear()
        vram.empty_cache()
