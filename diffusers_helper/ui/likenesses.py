"""How alike pairs of videos are, found out once for each pair, in a thread of its own: nobody who asks waits for it."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ..errors import FramePackError, unforeseen
from ..media.likeness import Likeness, likeness
from ..words import Message

log = logging.getLogger(__name__)

MOST = 100
"""Pairs that are kept; what is left of one is two numbers."""
Found: TypeAlias = Likeness | Message | None
"""None while it is being found out; a message where the two cannot be compared."""
_File: TypeAlias = tuple[str, int, int]
"""A file as it is now: its path, when it was written, its size."""


class Likenesses:
    """Thread-safe. ``found`` grows with everything that is found out."""

    def __init__(self, measure: Callable[[Path, Path], Likeness] = likeness) -> None:
        self._measure = measure
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[_File, _File], Found] = OrderedDict()
        self._waiting: list[tuple[_File, _File]] = []
        self.found = 0

    def of(self, one: Path, other: Path) -> Found:
        """What is known of these two; what is not is found out in its turn. Raises OSError."""
        pair = _file(one), _file(other)
        with self._lock:
            if pair not in self._known:
                self._ask(pair)
            return self._known[pair]

    def _ask(self, pair: tuple[_File, _File]) -> None:
        self._known[pair] = None
        while len(self._known) > MOST:
            self._known.popitem(last=False)
        self._waiting.append(pair)
        if len(self._waiting) == 1:
            threading.Thread(target=self._work, name="likeness", daemon=True).start()

    def _work(self) -> None:
        """One pair after the other, until none waits."""
        while True:
            pair = self._waiting[0]
            found = self._measured(pair)
            with self._lock:
                self._known[pair] = found
                self.found += 1
                self._waiting.pop(0)
                if not self._waiting:
                    return

    def _measured(self, pair: tuple[_File, _File]) -> Likeness | Message:
        (one, *_), (other, *_) = pair
        try:
            return self._measure(Path(one), Path(other))
        except FramePackError as error:
            return error.said
        except Exception as error:
            log.exception("%s and %s cannot be compared", one, other)
            return unforeseen(error)


def _file(path: Path) -> _File:
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size
