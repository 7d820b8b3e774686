"""The wish to stop, noticed between two events. Ctrl-C and SIGTERM are such wishes; the second one acts at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import closing
from types import FrameType, TracebackType
from typing import Any

from .errors import CancelRequested
from .events import Events, Last

INTERRUPTED = 130
"""The exit code of a program that was stopped."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def stoppable(events: Events, wanted: Callable[[], bool]) -> Events:
    """The same events of a job; once ``wanted``, it is asked to end and answers with its last event."""
    with closing(events):
        for event in events:
            yield event
            if wanted() and not isinstance(event, Last):
                yield events.throw(CancelRequested())
                return


class StopSignal:
    """While entered, the first signal sets ``received``; the next raises KeyboardInterrupt where it strikes."""

    def __init__(self) -> None:
        self.received = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        self._former = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Back to what was before; but a program that is ending on a wish to end ignores further wishes."""
        for number, former in self._former.items():
            signal.signal(number, signal.SIG_IGN if self.received else former)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        sys.stderr.write("\nstopping after the present step; what is finished is kept (again: now)\n")
