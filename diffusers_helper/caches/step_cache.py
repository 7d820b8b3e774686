"""The step-cache interface: a policy of pure numbers, and the residual it decides about.

A policy says, step by step, whether the transformer's blocks are computed or their last residual is reused. A
``BlockCache`` is one policy with its tensors for one section and one CFG branch: make a new one for each, and no
state can leak.

Shapes: B batch, N tokens of the packed image stream, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Protocol

from torch import Tensor


class StepCachePolicy(Protocol):
    """Decides from numbers alone; one instance serves one section and one CFG branch."""

    def compute(self, measure: float | None) -> bool:
        """True when this step must run the blocks, False when it may reuse the last residual.

        Args:
            measure: relative L1 change of the blocks' modulated input since the last step; None on the first.
        """
        ...


class BlockCache:
    """Runs the blocks or adds their last residual, as the policy says.

    Attributes:
        computed: one bool per step so far.
    """

    def __init__(self, policy: StepCachePolicy) -> None:
        self.computed: list[bool] = []
        self._policy = policy
        self._modulated: Tensor | None = None
        self._residual: Tensor | None = None

    def __call__(self, tokens: Tensor, modulated: Tensor, blocks: Callable[[], Tensor]) -> Tensor:
        """The image tokens after the blocks, [B, N, D].

        Args:
            tokens: [B, N, D], before the blocks.
            modulated: [B, N, D], the first block's normed and modulated input at this step.
            blocks: runs all blocks on ``tokens``.
        """
        measure = None if self._modulated is None else relative_l1(modulated, self._modulated)
        self._modulated = modulated
        must_compute = self._policy.compute(measure) or self._residual is None
        self.computed.append(must_compute)
        if self._residual is not None and not must_compute:
            return tokens + self._residual
        output = blocks()
        self._residual = output - tokens
        return output

    def state(self) -> Callable[[], None]:
        """What it knows now; calling the result brings that back."""
        computed, policy = list(self.computed), copy(self._policy)
        modulated, residual = self._modulated, self._residual

        def restore() -> None:
            self.computed, self._policy = list(computed), copy(policy)
            self._modulated, self._residual = modulated, residual

        return restore


def relative_l1(current: Tensor, previous: Tensor) -> float:
    """mean|current - previous| / mean|previous|."""
    return ((current - previous).abs().mean() / previous.abs().mean()).item()
