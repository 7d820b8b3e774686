"""What a run has done so far, and how long it has yet to go. Feeds the events' time left and the last event."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from .forecast import UNKNOWN, Paces, Work

T = TypeVar("T")

KNOWN_STEPS, KNOWN_FRAMES = 8, 10
"""How many measurements of this run weigh as much as what was known before."""
TELLING_STEPS = 2
"""Computed steps that must be measured before a time is told where nothing was known."""


class Forecast(TypedDict):
    """The fields of every event that tells the time; see ``events.Timed``."""

    seconds_left: float | None
    fraction: float | None


class Progress:
    """Counters and clocks of one run, which leaves out what an earlier run of the same video has done."""

    def __init__(
        self,
        work: Work,
        steps_per_frame: float,
        known: Paces = UNKNOWN,
        sections_saved: int = 0,
        first_to_decode: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``steps_per_frame``: see ``Checkpoint``. ``known``: what earlier videos took."""
        self.path: Path | None = None
        self.frames = 0
        self.steps_computed = 0
        self.steps_reused = 0
        self.seconds_sampling = 0.0
        self.seconds_reused = 0.0
        self.seconds_decoding = 0.0
        self._clock, self._began = clock, clock()
        self._known_step = None if known.step is None else known.step * work.step_size
        self._known_computed, self._preparing = known.computed, known.preparing
        self._frame_per_step = work.frame_per_step(known, steps_per_frame)
        self._steps_to_come = work.steps * (len(work.clips) - sections_saved)
        self._clips_to_come = list(work.clips[first_to_decode:])
        self._fraction = self._done_before = sections_saved / len(work.clips)
        self._frames_decoded = 0
        self._first_step_seconds = self._last_step_seconds = 0.0

    def stepped(self, computed: bool) -> None:
        """A step of ``timed`` is over."""
        if not self._steps:
            self._first_step_seconds = self.seconds_sampling
        self.steps_computed += computed
        self.steps_reused += not computed
        self.seconds_reused += 0.0 if computed else self._last_step_seconds
        self._steps_to_come -= 1

    def timed(self, steps: Iterator[T]) -> Iterator[T]:
        """The same iterator; the time it takes between two steps counts as sampling."""
        while True:
            began = self._clock()
            step = next(steps, None)
            self._last_step_seconds = self._clock() - began
            self.seconds_sampling += self._last_step_seconds
            if step is None:
                return
            yield step

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """The time spent inside counts as decoding, and what follows from that."""
        began = self._clock()
        try:
            yield
        finally:
            self.seconds_decoding += self._clock() - began

    def clip_is_done(self, frames: int, path: Path) -> None:
        """The next clip is in the video at ``path``, which has so many frames with it."""
        self.frames, self.path = frames, path
        self._frames_decoded += self._clips_to_come.pop(0)

    def forecast(self) -> Forecast:
        """The time left, and the share of the whole video's time that is over; None as long as nothing is known.

        Of the steps and frames to come at the pace so far, with what earlier videos took until there is one.
        """
        step = self._step_seconds()
        if step is None:
            return {"seconds_left": None, "fraction": None}
        left = self._steps_to_come * self._computed() * step + sum(self._clips_to_come) * self._frame_seconds(step)
        over = self._clock() - self._began
        if not self._steps:
            left += max(self._preparing - over, 0.0)
        share = over / (over + left) if over + left else 1.0
        self._fraction = max(self._fraction, self._done_before + (1 - self._done_before) * share)
        return {"seconds_left": round(left, 1), "fraction": round(self._fraction, 3)}

    @property
    def _steps(self) -> int:
        return self.steps_computed + self.steps_reused

    def _step_seconds(self) -> float | None:
        """Of a computed step. The first one pays for what is made once, so it does not count."""
        measured, seconds = max(self.steps_computed - 1, 0), self.seconds_sampling - self._first_step_seconds
        if self._known_step is None:
            return seconds / measured if measured >= TELLING_STEPS else None
        return _mean(self._known_step, KNOWN_STEPS, seconds, measured)

    def _computed(self) -> float:
        """The share of steps that are computed."""
        if self._known_computed is None:
            return self.steps_computed / self._steps if self._steps else 1.0
        return _mean(self._known_computed, KNOWN_STEPS, self.steps_computed, self._steps)

    def _frame_seconds(self, step: float) -> float:
        """Of a decoded frame. What steps and frames take rises and falls together, with what else the machine does."""
        return _mean(self._frame_per_step * step, KNOWN_FRAMES, self.seconds_decoding, self._frames_decoded)

    def totals(self) -> dict[str, Any]:
        """The fields of the last event that this object knows."""
        return {
            "path": str(self.path) if self.path else None,
            "frames": self.frames,
            "seconds_total": round(self._clock() - self._began, 3),
            "seconds_sampling": round(self.seconds_sampling, 3),
            "seconds_decoding": round(self.seconds_decoding, 3),
            "steps_computed": self.steps_computed,
            "steps_reused": self.steps_reused,
            "seconds_reused": round(self.seconds_reused, 3),
            "seconds_first_step": round(self._first_step_seconds, 3),
        }


def _mean(known: float, weight: float, total: float, count: float) -> float:
    """The mean of ``count`` measurements and of ``known``, which stands for ``weight`` more."""
    return (known * weight + total) / (weight + count)
