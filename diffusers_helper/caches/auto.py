"""Auto: the best step cache that has been measured with the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ..words import Message
from .step_cache import Measured, StepCache, StepCacheOption
from .teacache import TeaCacheOption

STRENGTHS = ("quality", "balanced", "fast")
UNMEASURED: Mapping[str, StepCacheOption] = {
    "quality": TeaCacheOption(threshold=0.1),
    "balanced": TeaCacheOption(threshold=0.15),
    "fast": TeaCacheOption(threshold=0.25),
}
"""Of a checkpoint with which nothing has been measured: what the original program does, and needs no calibration."""


class AutoOption(StepCacheOption):
    """Another option, by what has been measured of the checkpoint."""

    name: ClassVar[str] = "auto"
    title: ClassVar[str] = "Auto"

    strength: Literal["quality", "balanced", "fast"] = Field(
        default="balanced", description="quality, balanced or fast: how much is reused"
    )

    def meant(self, measured: Measured) -> StepCacheOption:
        """See ``StepCacheOption``."""
        return measured.best.get(self.strength, UNMEASURED[self.strength])

    def lacks(self, measured: Measured) -> Message | None:
        """See ``StepCacheOption``."""
        return self.meant(measured).lacks(measured)

    def remarks(self, measured: Measured, steps: int) -> Iterator[Message]:
        """See ``StepCacheOption``."""
        meant = self.meant(measured)
        values = {"name": meant.title, "threshold": getattr(meant, "threshold", 0.0)}
        if getattr(meant, "forecast", False):
            yield Message("step_cache.auto_forecasts", **values)
        else:
            yield Message("step_cache.auto", **values)
        yield from meant.remarks(measured, steps)

    def make(self, sigmas: Sequence[float], measured: Measured) -> StepCache:
        """See ``StepCacheOption``."""
        return self.meant(measured).make(sigmas, measured)
