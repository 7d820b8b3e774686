"""First Block Cache: the first block always runs, and what it adds decides about the others.

The rule is that of ParaAttention's First Block Cache, which diffusers has taken over: the others are skipped while the
first block's residual is near that of the last computed step. Here only the target's tokens are compared. With
swapping, nothing but the first block is moved on a step that skips the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from .step_cache import BlockPass, Measured, ResidualCache, ResidualOption, Rule, relative_l1

if TYPE_CHECKING:
    from torch import Tensor


class FirstBlockCache(ResidualCache):
    """Compares what the first block adds with what it added when all blocks last ran; both [B, n, D]."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._added: Tensor | None = None
        self._added_then: Tensor | None = None

    def start(self, blocks: BlockPass, run: Iterator[Tensor]) -> Tensor:
        """See ResidualCache: the residual is that of the blocks after the first."""
        after_first = blocks.of_target(next(run))
        self._added = after_first - blocks.of_target(blocks.tokens)
        return after_first

    def estimate(self, blocks: BlockPass) -> float:
        """See ResidualCache. It is not summed up, since nothing is compared with a step that was reused."""
        added, then = self._added, self._added_then
        if added is None or then is None or then.shape != added.shape:
            return math.inf
        return relative_l1(added, then)

    def learn(self, blocks: BlockPass, output: Tensor, residual: Tensor) -> None:
        """See ResidualCache."""
        self._added_then = self._added


class FirstBlockOption(ResidualOption):
    """First Block Cache as a recipe asks for it. It also keeps what the first block added then, and now."""

    name: ClassVar[str] = "first_block"
    title: ClassVar[str] = "First Block Cache"
    beside_residuals: ClassVar[int] = 2

    threshold: float = Field(default=0.05, ge=0, le=1, description="higher reuses more; 0.035 is the quality setting")

    def make(self, sigmas: Sequence[float], measured: Measured) -> FirstBlockCache:
        """See ``StepCacheOption``."""
        return FirstBlockCache(self.rule(sigmas))
