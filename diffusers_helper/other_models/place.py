"""Which step of which run a call of a transformer is, and which branch of its guidance.

A pipeline that opens ``cache_context`` names the branch, and some name the step. What is not named is found out:

* the timesteps of a run fall; one that rises begins a run, and so do other latents at the first one;
* the calls of a step have the same latents: without a context, the second one is the second branch;
* the same call again, or a third one without a context, begins a run.

Without a context it cannot be told whether a second call with the same latents is the other branch, or the same one
after a run that was broken off in its first step. So the next step is computed, and from then on it does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PLAIN_CALLS = ("first call", "second call")
"""The branches of a step whose calls have no context."""


class Context(Protocol):
    """What a pipeline says of a call (diffusers' ``CacheContext``)."""

    name: str
    step_index: int | None


@dataclass(frozen=True)
class Place:
    """Where a call stands.

    Attributes:
        begins: it is the first call of a run.
        doubtful: what came before this step is not certain, so it has to be computed.
    """

    step: int
    branch: str
    begins: bool
    doubtful: bool


class Steps:
    """The run so far.

    Not noticed, where no step is named, is a run that begins below the timestep at which another one was left.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """The next call begins a run."""
        self._step, self._timestep, self._doubtful = -1, 0.0, False
        self._latents: Tensor | None = None
        self._version = 0
        self._called: list[str] = []

    def enter(self, latents: Tensor, timestep: float, context: Context | None) -> Place:
        """The place of the next call."""
        index = context.step_index if context else None
        same = (timestep == self._timestep if index is None else index == self._step) and self._are_known(latents)
        branch = context.name if context else PLAIN_CALLS[len(self._called) % 2 if same else 0]
        begins = False
        if not same or branch in self._called:
            begins = self._begins(index, timestep, same)
            again = not begins and index is None and timestep == self._timestep
            self._step = index if index is not None else 0 if begins else self._step + 1
            self._doubtful = again or (context is None and self._step == 1)
            self._called = []
        self._timestep, self._latents, self._version = timestep, latents, _version(latents)
        self._called.append(branch)
        return Place(self._step, branch, begins, self._doubtful)

    def _begins(self, index: int | None, timestep: float, same: bool) -> bool:
        if same or self._step < 0:
            return True
        if index is not None:
            return index <= self._step
        return timestep > self._timestep or (timestep == self._timestep and self._step == 0)

    def _are_known(self, latents: Tensor) -> bool:
        """Whether these are the latents of the last call, untouched since."""
        known = self._latents
        if known is None or _version(known) != self._version:
            return False
        alike = (known.shape, known.dtype, known.device) == (latents.shape, latents.dtype, latents.device)
        return known is latents or (alike and torch.equal(known, latents))


def _version(latents: Tensor) -> int:
    """A number that changes with the content; tensors of the inference mode have none."""
    return 0 if latents.is_inference() else latents._version
