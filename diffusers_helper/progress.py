"""What a run has done so far: frames, steps, seconds. Feeds the step events' time left and the last event."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Progress:
    """Counters of one run. ``steps_to_come`` and ``decodes_to_come`` leave out what an earlier run has done."""

    def __init__(self, steps_to_come: int, decodes_to_come: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.path: Path | None = None
        self.frames = 0
        self.steps_computed = 0
        self.steps_reused = 0
        self.seconds_sampling = 0.0
        self.seconds_decoding = 0.0
        self._clock, self._began = clock, clock()
        self._steps_to_come, self._decodes_to_come = steps_to_come, decodes_to_come
        self._decodes = 0

    def stepped(self, computed: bool) -> None:
        self.steps_computed += computed
        self.steps_reused += not computed
        self._steps_to_come -= 1

    def timed(self, steps: Iterator[T]) -> Iterator[T]:
        """The same iterator; the time it takes between two steps counts as sampling."""
        while True:
            began = self._clock()
            step = next(steps, None)
            self.seconds_sampling += self._clock() - began
            if step is None:
                return
            yield step

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """The time spent inside counts as decoding one clip."""
        began = self._clock()
        try:
            yield
        finally:
            self.seconds_decoding += self._clock() - began
        self._decodes += 1
        self._decodes_to_come -= 1

    def seconds_left(self) -> float | None:
        """Steps and decodes to come at the average pace so far; None before the first step."""
        steps = self.steps_computed + self.steps_reused
        if not steps:
            return None
        decoding = self.seconds_decoding / self._decodes if self._decodes else 0.0
        return round(self._steps_to_come * self.seconds_sampling / steps + self._decodes_to_come * decoding, 1)

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
        }
