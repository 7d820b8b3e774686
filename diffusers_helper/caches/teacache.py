"""TeaCache: reuse the blocks' residual while their input has changed little (Liu et al. 2024, arXiv:2411.19108).

The polynomial that turns the change of the input into an estimate of the change of the output was fitted by the
authors of FramePack for its 13B transformer. It is never below 0.052, so that a threshold of 0.15 skips at most two
steps in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from .step_cache import BlockPass, Measured, ResidualCache, ResidualOption, Rule, relative_l1

if TYPE_CHECKING:
    from torch import Tensor

FRAMEPACK_COEFFICIENTS = (7.33226126e02, -4.01131952e02, 6.75869174e01, -3.14987800e00, 9.61237896e-02)


def estimated_change(relative_l1: float) -> float:
    """The estimated relative change of the blocks' output, by Horner's rule on FRAMEPACK_COEFFICIENTS."""
    total = 0.0
    for coefficient in FRAMEPACK_COEFFICIENTS:
        total = total * relative_l1 + coefficient
    return total


class TeaCache(ResidualCache):
    """Sums the estimated changes up."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._modulated: Tensor | None = None

    def estimate(self, blocks: BlockPass) -> float:
        """See ResidualCache."""
        return self.error + estimated_change(self.measure(blocks))

    def measure(self, blocks: BlockPass) -> float:
        """Relative L1 change of the blocks' modulated input since the step before; 0 where it cannot be told."""
        modulated, before = blocks.modulated(), self._modulated
        self._modulated = modulated
        return 0.0 if before is None or before.shape != modulated.shape else relative_l1(modulated, before)


class TeaCacheOption(ResidualOption):
    """TeaCache as a recipe asks for it. Beside the residual it keeps the last modulated input."""

    name: ClassVar[str] = "teacache"
    title: ClassVar[str] = "TeaCache"
    stream_tensors: ClassVar[int] = 1

    threshold: float = Field(default=0.15, ge=0, le=1, description="higher reuses more; 0.1 is the quality setting")

    def make(self, sigmas: Sequence[float], measured: Measured) -> TeaCache:
        """See ``StepCacheOption``."""
        return TeaCache(self.rule(sigmas))
