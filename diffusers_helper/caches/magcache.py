"""MagCache: reuse the blocks' residual while its length is known to change little (Ma et al. 2025, arXiv:2506.09045).

How much longer the residual gets from one step to the next hardly depends on what is made: it is measured once for a
checkpoint and a number of steps. So a step that is skipped looks at nothing, and computes nothing of the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .step_cache import BlockPass, ResidualCache

if TYPE_CHECKING:
    from torch import Tensor


class MagCache(ResidualCache):
    """Skips a step while the summed error stays within ``threshold``, and at most ``k`` in a row.

    The first steps, as many as the retention ratio says, and the last one are always computed.
    """

    def __init__(
        self, ratios: Sequence[float], threshold: float, k: int, retention_ratio: float, gate: float | None = None
    ) -> None:
        """
        Args:
            ratios: for each step how much longer its residual is than that of the step before; the first is 1.
            threshold: of the sum of |1 - product of ratios| since the last computed step.
            gate: steps whose ratio is further from 1 are computed, as in the authors' FramePack demo.
        """
        super().__init__()
        self._ratios, self._threshold, self._k, self._gate = tuple(ratios), threshold, k, gate
        self._first = max(int(retention_ratio * len(ratios)), 1)
        self._ratio, self._error, self._skipped = 1.0, 0.0, 0

    def decide(self, blocks: BlockPass) -> bool:
        """See ResidualCache."""
        return self.compute(len(self.computed))

    def compute(self, step: int) -> bool:
        """The decision of a step, counted from 0, from numbers alone; the steps are asked in their order."""
        if not self._threshold or not self._first <= step < len(self._ratios) - 1:
            return True
        change = self._ratios[step]
        self._ratio *= change
        self._error += abs(1 - self._ratio)
        self._skipped += 1
        gated = self._gate is not None and abs(1 - change) > self._gate
        if self._error <= self._threshold and self._skipped <= self._k and not gated:
            return False
        self._ratio, self._error, self._skipped = 1.0, 0.0, 0
        return True


class Recorder(ResidualCache):
    """Skips nothing, and measures the ratios.

    Attributes:
        ratios: of the steps so far; the first is 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ratios: tuple[float, ...] = ()

    def decide(self, blocks: BlockPass) -> bool:
        """See ResidualCache."""
        return True

    def learn(self, residual: Tensor) -> None:
        """See ResidualCache."""
        known = self.residual
        self.ratios = (*self.ratios, 1.0 if known is None else magnitude_ratio(residual, known))


def magnitude_ratio(residual: Tensor, before: Tensor) -> float:
    """mean over the tokens of |residual| / |before|, [B, n, D] each."""
    lengths = before.float().norm(dim=-1).clamp_min(1e-8)
    return (residual.float().norm(dim=-1) / lengths).mean().item()


def for_steps(ratios: Sequence[float], steps: int) -> tuple[float, ...]:
    """Ratios that were measured with another number of steps: the nearest one of each, half to even."""
    if steps == 1:
        return tuple(ratios[-1:])
    return tuple(ratios[round(step * (len(ratios) - 1) / (steps - 1))] for step in range(steps))


def read_ratios(text: str) -> tuple[float, ...]:
    """A list with commas, as calibrations print it; empty or "0" stands for the checkpoint's own.

    Raises ValueError, which names the place of what is no ratio.
    """
    if text.strip() in ("", "0"):
        return ()
    return tuple(_ratio(part.strip(), place) for place, part in enumerate(text.split(","), start=1))


def _ratio(part: str, place: int) -> float:
    try:
        found = float(part)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        raise ValueError(f"number {place}, {part!r}, is not a number above 0")
    return found
