"""Which steps are computed: ComfyUI-MagCache's rule, with numbers alone.

It differs from that of ``caches.magcache``: a model may have steps that are always computed, and those leave the sums
as they are; and a list of another length is read at floor(i (m-1) / (n-1)) for step i of n, m ratios.
One thing is not as published: the last step is always computed. Nothing comes after it to mend what it changes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

from ..errors import UnusableArgument
from .presets import Preset

Ratios = Sequence[float] | str
"""Numbers, or a text with commas as calibrations print it."""


class PublishedRule:
    """Says which steps are computed; between those that always are, the sums go on."""

    def __init__(
        self, ratios: Sequence[float], threshold: float, k: int, retention_ratio: float, always: Collection[int]
    ) -> None:
        self._ratios, self._threshold, self._k, self._always = tuple(ratios), threshold, k, always
        self._first = max(int(retention_ratio * len(ratios)), 1)
        self._product, self._error, self._skipped = 1.0, 0.0, 0

    def compute(self, step: int) -> bool:
        """The decision of a step, counted from 0; the steps are asked in their order."""
        if step in self._always or not self._threshold or not self._first <= step < len(self._ratios) - 1:
            return True
        self._product *= self._ratios[step]
        self._error += abs(1 - self._product)
        self._skipped += 1
        if self._error <= self._threshold and self._skipped <= self._k:
            return False
        self._product, self._error, self._skipped = 1.0, 0.0, 0
        return True


@dataclass(frozen=True)
class Plan:
    """What a run of ``steps`` steps does.

    Attributes:
        always: the steps that are computed whatever the sums say.
        ratios: for each branch of the guidance one for each step.
        notes: what was made of a list of another length, in words.
    """

    steps: int
    threshold: float
    k: int
    retention_ratio: float
    always: frozenset[int]
    ratios: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def skips(self) -> bool:
        """Whether any step can be skipped."""
        return any("." in self.pattern(branch) for branch in range(len(self.ratios)))

    def rule(self, branch: int = 0) -> PublishedRule:
        """The rule at the beginning of a run; a branch without a list of its own has the first one's."""
        ratios = self.ratios[min(branch, len(self.ratios) - 1)]
        return PublishedRule(ratios, self.threshold, self.k, self.retention_ratio, self.always)

    def pattern(self, branch: int = 0) -> str:
        """For each step C (computed) or a dot (skipped)."""
        rule = self.rule(branch)
        return "".join("C" if rule.compute(step) else "." for step in range(self.steps))


def plan(
    preset: Preset,
    steps: int,
    threshold: float | None = None,
    k: int | None = None,
    retention_ratio: float | None = None,
    ratios: Ratios | None = None,
    uncond_ratios: Ratios | None = None,
) -> Plan:
    """A preset for a number of steps; what is given takes the place of its own. Raises UnusableArgument by name."""
    lists = _lists(preset, ratios, uncond_ratios)
    steps = _whole("num_inference_steps", steps, 1)
    length = len(lists[0])
    return Plan(
        steps,
        _number("threshold", preset.threshold if threshold is None else threshold),
        _whole("k", preset.k if k is None else k, 0),
        _number("retention_ratio", preset.retention_ratio if retention_ratio is None else retention_ratio, 1.0),
        frozenset(step for step in range(steps) if place(step, steps, length) in preset.always),
        tuple(tuple(each[place(step, steps, len(each))] for step in range(steps)) for each in lists),
        tuple(_note(len(each), steps) for each in lists[:1] if len(each) != steps),
    )


def place(step: int, steps: int, length: int) -> int:
    """Where in a list of that length the ratio of a step stands; for a single step the last one."""
    return step * (length - 1) // (steps - 1) if steps > 1 else length - 1


def _note(length: int, steps: int) -> str:
    return (
        f"The list of {length} ratios was measured with {length} steps and is read for {steps}: a step takes the "
        "nearest ratio before it. To measure a list of your own is better."
    )


def _lists(preset: Preset, ratios: Ratios | None, uncond_ratios: Ratios | None) -> tuple[tuple[float, ...], ...]:
    """The lists of the branches, where those that are given replace the preset's."""
    lists = preset.ratios if ratios is None else (checked_ratios("ratios", ratios),)
    if uncond_ratios is not None:
        lists = (lists[0], checked_ratios("uncond_ratios", uncond_ratios))
    if len({len(each) for each in lists}) > 1:
        found = " and ".join(str(len(each)) for each in lists)
        raise UnusableArgument(f"ratios and uncond_ratios have {found} numbers; both need the same steps.")
    return lists


def checked_ratios(name: str, ratios: Ratios) -> tuple[float, ...]:
    """Numbers above 0, at least one. Raises UnusableArgument with the place of what is none."""
    parts: Sequence[object] = ratios.split(",") if isinstance(ratios, str) else list(ratios)
    if not parts:
        raise UnusableArgument(f"{name} is empty; it needs a number above 0 for each step.")
    return tuple(_ratio(name, position, part) for position, part in enumerate(parts, start=1))


def _ratio(name: str, position: int, part: object) -> float:
    found = _float(part)
    if not (math.isfinite(found) and found > 0):
        raise UnusableArgument(f"{name}: number {position}, {part!r}, is not a number above 0.")
    return found


def _number(name: str, value: object, high: float = math.inf) -> float:
    found = _float(value)
    if not (math.isfinite(found) and 0 <= found <= high):
        allowed = "a number from 0" if high == math.inf else f"a number from 0 to {high:g}"
        raise UnusableArgument(f"{name} is {value!r}; it must be {allowed}.")
    return found


def _whole(name: str, value: object, low: int) -> int:
    if isinstance(value, SupportsIndex) and not isinstance(value, bool) and operator.index(value) >= low:
        return operator.index(value)
    raise UnusableArgument(f"{name} is {value!r}; it must be a whole number from {low}.")


def _float(value: object) -> float:
    """NaN for what is no number."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
