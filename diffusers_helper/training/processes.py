"""One training in several processes, each with a device: ``accelerate launch -m diffusers_helper train ...``.

Every process draws the same examples and the same noise for all, learns from its share, and takes the sum of all
gradients; so all have the same weights after each step, those of one process with as many times the batch. The first
one alone writes and tells.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn

PATIENCE = timedelta(days=1)
"""How long the others wait while the first one encodes, or makes samples."""


@dataclass(frozen=True)
class Processes:
    """Which of how many this one is, from 0 on."""

    number: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Processes:
        """As the launcher says; they are connected then. Alone without one."""
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        return cls(state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this one writes and tells."""
        return self.number == 0

    def is_mine(self, turn: int) -> bool:
        """Whether the batch of this turn of a step is learnt here."""
        return turn % self.count == self.number

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """The first goes through it, and then the others: what it has kept is there for them."""
        if self.count == 1:
            yield
            return
        with PartialState().main_process_first():
            yield

    def sum_gradients(self, parameters: Sequence[nn.Parameter], losses: Sequence[float]) -> list[float]:
        """Every gradient is the sum of all processes', and so is every loss that is returned."""
        if self.count == 1:
            return list(losses)
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        told = torch.tensor(losses, dtype=torch.float32, device=gradients[0].device)
        whole: Tensor = reduce(torch.cat([each.flatten() for each in (*gradients, told)]), reduction="sum")
        *summed, sums = whole.split([each.numel() for each in (*gradients, told)])
        for parameter, gradient in zip(parameters, summed, strict=True):
            parameter.grad = gradient.view_as(parameter).clone()
        return sums.tolist()
