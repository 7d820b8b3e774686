"""TeaCache: reuse the blocks' residual while their input has changed little (Liu et al. 2024, arXiv:2411.19108).

The polynomial that turns the change of the input into an estimate of the change of the output was fitted by the
authors of FramePack for its 13B transformer. It is never below 0.052, so that a threshold of 0.15 skips at most two
steps in a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from .step_cache import BlockPass, ResidualCache, StepCacheOption, relative_l1

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
    """Computes the first and the last step, and every step at which the summed estimate reaches ``threshold``."""

    def __init__(self, steps: int, threshold: float) -> None:
        super().__init__()
        self._last = steps - 1
        self._threshold = threshold
        self._step = 0
        self._change = 0.0
        self._modulated: Tensor | None = None

    def decide(self, blocks: BlockPass) -> bool:
        """See ResidualCache."""
        modulated, before = blocks.modulated(), self._modulated
        self._modulated = modulated
        if before is None or before.shape != modulated.shape:
            return self.compute(None)
        return self.compute(relative_l1(modulated, before))

    def compute(self, measure: float | None) -> bool:
        """The decision, from numbers alone.

        Args:
            measure: relative L1 change of the blocks' modulated input since the last step; None where there is none.
        """
        step, self._step = self._step, self._step + 1
        if measure is None or step == self._last:
            self._change = 0.0
            return True
        self._change += estimated_change(measure)
        if self._change < self._threshold:
            return False
        self._change = 0.0
        return True


class TeaCacheOption(StepCacheOption):
    """TeaCache as a recipe asks for it. Beside the residual it keeps the last modulated input."""

    name: ClassVar[str] = "teacache"
    stream_tensors: ClassVar[int] = 1

    threshold: float = Field(default=0.15, ge=0, le=1, description="higher reuses more; 0.1 is the quality setting")

    def make(self, steps: int) -> TeaCache:
        """See ``StepCacheOption``."""
        return TeaCache(steps, self.threshold)
