"""EasyCache: how much the output moves when the input does is learnt as it runs (arXiv:2507.02860).

The rate between the two changes slowly from step to step. So the change of the noisy latents, which costs nothing to
know, tells that of the output without running the blocks, and no calibration is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from .step_cache import BlockPass, Measured, ResidualCache, ResidualOption, Rule

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-12


class EasyCache(ResidualCache):
    """Sums up rate * |change of the noisy latents| / |last computed output|, with means of absolute values.

    The rate is that between the last two computed steps; the output is the target's tokens after the blocks.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._noisy: Tensor | None = None
        self._computed: tuple[Tensor, Tensor] | None = None
        self._rate = math.inf
        self._length = 1.0

    def estimate(self, blocks: BlockPass) -> float:
        """See ResidualCache."""
        before, self._noisy = self._noisy, blocks.noisy
        if before is None or before.shape != blocks.noisy.shape:
            return math.inf
        return self.error + self._rate * _distance(blocks.noisy, before) / self._length

    def learn(self, blocks: BlockPass, output: Tensor, residual: Tensor) -> None:
        """See ResidualCache."""
        kept = output.clone()  # a view would keep the context's tokens too
        then, self._computed = self._computed, (blocks.noisy, kept)
        self._length = max(output.abs().mean().item(), SMALLEST)
        if then is not None and (then[0].shape, then[1].shape) == (blocks.noisy.shape, output.shape):
            self._rate = _distance(output, then[1]) / max(_distance(blocks.noisy, then[0]), SMALLEST)


def _distance(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().mean().item()


class EasyCacheOption(ResidualOption):
    """EasyCache as a recipe asks for it. Beside the residual it keeps the last computed output."""

    name: ClassVar[str] = "easycache"
    title: ClassVar[str] = "EasyCache"
    beside_residuals: ClassVar[int] = 1

    threshold: float = Field(default=0.05, ge=0, le=1, description="higher reuses more; 0.025 is the quality setting")

    def make(self, sigmas: Sequence[float], measured: Measured) -> EasyCache:
        """See ``StepCacheOption``."""
        return EasyCache(self.rule(sigmas))
