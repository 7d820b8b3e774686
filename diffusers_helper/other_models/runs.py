"""What is kept of the runs of a transformer, a state for each branch of the guidance; and what is made of it.

Shapes: B batch, n tokens, D channels, F frames, H x W patches.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .place import PLAIN_CALLS, Place, Steps
from .rule import Plan, PublishedRule

LOG = logging.getLogger(__name__)
SECOND_BRANCH = ("uncond", PLAIN_CALLS[1])
"""What the branch without the prompt is called, which may have a list of its own."""


def _nothing() -> Tensor:
    return torch.empty(0)


@dataclass
class Branch:
    """What is kept of a branch from one step to the next.

    Attributes:
        residual: [B, n, D] that the blocks added when they last ran.
        inputs: shape, dtype and device of the latents that it belongs to.
        step: the last one.
    """

    rule: PublishedRule
    residual: Tensor = field(default_factory=_nothing)
    inputs: tuple[Any, ...] = ()
    step: int = -1


@dataclass
class Call:
    """A call that is going on.

    Attributes:
        embedded: what the embedder gave: the tokens before the blocks [B, n, D], or [B, D, F, H, W].
    """

    place: Place
    branch: Branch
    computes: bool
    inputs: tuple[Any, ...]
    embedded: Tensor = field(default_factory=_nothing)


class Runs:
    """The runs of a transformer, one after the other.

    Attributes:
        call: the one that is going on.
        made: by branch, C or a dot for each step of this run, or of the last one until the next begins.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._steps = plan, Steps()
        self._branches: dict[str, Branch] = {}
        self.made: dict[str, str] = {}
        self.call: Call | None = None

    def clear(self) -> None:
        """The next call begins a run; no tensor of the last one is kept."""
        self._steps.clear()
        self._branches.clear()
        self.call = None

    def begin_call(self, latents: Tensor, timestep: float, context: Any) -> bool:
        """Whether the blocks run; ``context`` is diffusers', None where none is open."""
        place = self._steps.enter(latents, timestep, context)
        if place.begins:
            self._branches.clear()
            self.made = {}
        self._warn(place, getattr(context, "num_inference_steps", None))
        branch = self._branches.setdefault(place.branch, Branch(self._rule(place)))
        inputs = (latents.shape, latents.dtype, latents.device)
        self.call = Call(place, branch, self._computes(place, branch, inputs), inputs)
        return self.call.computes

    def _rule(self, place: Place) -> PublishedRule:
        return self._plan.rule(place.branch in SECOND_BRANCH)

    def _warn(self, place: Place, steps: int | None) -> None:
        """Another number of steps than planned: the ratios then stand at wrong steps."""
        known = steps is not None and steps != self._plan.steps
        if (place.begins and known) or place.step == self._plan.steps:
            LOG.warning("MagCache was applied for %d steps, and the run has %s", self._plan.steps, steps or "more")

    def _computes(self, place: Place, branch: Branch, inputs: tuple[Any, ...]) -> bool:
        """By the rule, where the branch's last step is the one before and of this size; else always, the sums anew."""
        if branch.step == place.step - 1 and inputs == branch.inputs and not place.doubtful:
            return branch.rule.compute(place.step)
        branch.rule = self._rule(place)
        return True

    def end_blocks(self, tokens: Tensor) -> Tensor:
        """The tokens after the blocks, [B, n, D]: as they are where the blocks ran, else with their last residual."""
        call = self.call
        if call is None:
            return tokens
        if call.computes:
            call.branch.residual, call.branch.inputs = _residual(tokens, call.embedded), call.inputs
        else:
            tokens = tokens + call.branch.residual
        call.branch.step = call.place.step
        made = self.made.get(call.place.branch, "")
        self.made[call.place.branch] = made + ("C" if call.computes else ".")
        return tokens


def _residual(after: Tensor, before: Tensor) -> Tensor:
    """[B, n, D] in the numbers of the transformer; Wan's norm is handed float32."""
    if before.ndim > after.ndim:
        before = before.flatten(2).transpose(1, 2)
    return (after - before).detach().to(before.dtype)
