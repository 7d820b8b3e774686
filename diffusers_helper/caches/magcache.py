"""MagCache: reuse the blocks' residual while its length is known to change little (Ma et al. 2025, arXiv:2506.09045).

How much longer the residual gets from one step to the next hardly depends on what is made: it is measured once for a
checkpoint and a number of steps. So a step that is skipped looks at nothing, and computes nothing of the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from ..words import Message
from .step_cache import BlockPass, Measured, ResidualCache, ResidualOption, Rule, StepCache

if TYPE_CHECKING:
    from torch import Tensor

DECIMALS = 5
"""Of a ratio, as it is printed, kept and read."""


class MagCache(ResidualCache):
    """Sums up |1 - product of the ratios since the last computed step|."""

    def __init__(self, rule: Rule, ratios: Sequence[float], gate: float = 0.0) -> None:
        """
        Args:
            ratios: for each step how much longer its residual is than that of the step before; the first is 1.
            gate: steps whose ratio is further from 1 are computed, as in the authors' FramePack demo; 0 for none.
        """
        super().__init__(rule)
        self._ratios, self._gate = tuple(ratios), gate
        self._product = 1.0

    def estimate(self, blocks: BlockPass) -> float:
        """See ResidualCache. It looks at nothing."""
        ratio = self._ratios[len(self.computed)]
        self._product *= ratio
        return math.inf if self._gate and abs(1 - ratio) > self._gate else self.error + abs(1 - self._product)

    def learn(self, blocks: BlockPass, output: Tensor, residual: Tensor) -> None:
        """See ResidualCache."""
        self._product = 1.0


class Recorder(ResidualCache):
    """Skips nothing, and measures the ratios."""

    def estimate(self, blocks: BlockPass) -> float:
        """See ResidualCache."""
        return math.inf

    def learn(self, blocks: BlockPass, output: Tensor, residual: Tensor) -> None:
        """See ResidualCache."""
        fits = self.residuals and self.residuals[-1][1].shape == residual.shape
        ratio = magnitude_ratio(residual, self.residuals[-1][1]) if fits else 1.0
        self.ratios = (*self.ratios, round(ratio, DECIMALS))


def magnitude_ratio(residual: Tensor, before: Tensor) -> float:
    """mean over the tokens of |residual| / |before|, [B, n, D] each."""
    lengths = before.float().norm(dim=-1).clamp_min(1e-8)
    return (residual.float().norm(dim=-1) / lengths).mean().item()


def for_steps(ratios: Sequence[float], steps: int) -> tuple[float, ...]:
    """Ratios that were measured with another number of steps: the nearest one of each, half to even."""
    if steps == 1:
        return tuple(ratios[-1:])
    return tuple(ratios[round(step * (len(ratios) - 1) / (steps - 1))] for step in range(steps))


def in_words(ratios: Iterable[float]) -> str:
    """The inverse of ``read_ratios``."""
    return ", ".join(f"{ratio:.{DECIMALS}f}" for ratio in ratios)


def mean_of(sections: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Of lists of the same length, step by step."""
    return tuple(round(sum(ratios) / len(ratios), DECIMALS) for ratios in zip(*sections, strict=True))


def nearest(measured: Measured, steps: int) -> tuple[float, ...]:
    """The list that was measured with the number of steps next to this one; empty where there is none.

    Of two that are as near it is this machine's.
    """
    return min((*measured.read_calibrated(), *measured.ratios), key=lambda ratios: abs(len(ratios) - steps), default=())


class NoRatioError(ValueError):
    """What stands in a list, at a place counted from 1, is no number above 0."""

    def __init__(self, place: int, given: str) -> None:
        super().__init__(f"numbers above 0, with commas; number {place}, {given!r}, is none")
        self.place, self.given = place, given


def read_ratios(text: str) -> tuple[float, ...]:
    """A list with commas, in brackets or not, as calibrations print it; empty or 0 stands for the checkpoint's own.

    Raises NoRatioError.
    """
    text = text.strip().removeprefix("[").removesuffix("]").strip()
    if text in ("", "0", "0.0"):
        return ()
    return tuple(_ratio(part.strip(), place) for place, part in enumerate(text.split(","), start=1))


def _ratio(part: str, place: int) -> float:
    try:
        found = float(part)
    except ValueError:
        found = math.nan
    if "_" in part or not (math.isfinite(found) and found > 0):
        raise NoRatioError(place, part)
    return found


def _as_text(given: Any) -> Any:
    """Programs may give a list of numbers, or 0."""
    if isinstance(given, (list, tuple)):
        return ", ".join(map(str, given))
    return str(given) if type(given) in (int, float) else given


def _is_list(text: str) -> str:
    try:
        read_ratios(text)
    except NoRatioError as error:
        place = {"place": error.place, "given": error.given}
        raise PydanticCustomError("ratios", "{words}", {**place, "words": str(error)}) from None
    return text


class MagCacheOption(ResidualOption):
    """MagCache as a recipe asks for it."""

    name: ClassVar[str] = "magcache"
    title: ClassVar[str] = "MagCache"

    threshold: float = Field(default=0.24, ge=0, le=1, description="higher reuses more; 0 reuses nothing")
    k: int = Field(default=6, ge=0, le=100, description="at most so many steps are reused one after the other")
    retention_ratio: float = Field(default=0.2, ge=0, le=1, description="share of the first steps that are computed")
    gate: float = Field(
        default=0.0, ge=0, le=1, description="computes steps whose ratio is further from 1; 0 computes none for that"
    )
    mag_ratios: Annotated[str, BeforeValidator(_as_text), AfterValidator(_is_list)] = Field(
        default="",
        max_length=10_000,
        description="a ratio per step, with commas; empty or 0: the checkpoint's own",
    )
    calibration: bool = Field(default=False, description="reuse nothing, and measure the ratios of this checkpoint")

    def make(self, sigmas: Sequence[float], measured: Measured) -> StepCache:
        """See ``StepCacheOption``."""
        if self.calibration:
            return Recorder(Rule(sigmas, 0.0))
        steps = len(sigmas)
        ratios = for_steps(self.ratios(measured, steps), steps)
        return MagCache(self.rule(sigmas, int(self.retention_ratio * steps), self.k), ratios, self.gate)

    @property
    def calibrates(self) -> bool:
        """See ``StepCacheOption``."""
        return self.calibration

    def lacks(self, measured: Measured) -> Message | None:
        """See ``StepCacheOption``."""
        known = self.calibration or self.ratios(measured, 1)
        return None if known else Message("step_cache.no_ratios")

    def remarks(self, measured: Measured, steps: int) -> Iterator[Message]:
        """See ``StepCacheOption``."""
        if self.calibration:
            yield Message("step_cache.calibrates", steps=steps)
            return
        ratios = self.ratios(measured, steps)
        if not read_ratios(self.mag_ratios) and ratios in measured.read_calibrated():
            yield Message("step_cache.calibrated", steps=len(ratios))
        if len(ratios) != steps:
            yield Message("step_cache.other_steps", measured=len(ratios), steps=steps)

    def ratios(self, measured: Measured, steps: int) -> tuple[float, ...]:
        """The list that is used, of as many steps as it was measured with; empty where there is none."""
        return read_ratios(self.mag_ratios) or nearest(measured, steps)
