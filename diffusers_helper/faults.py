"""Fault points: where a test breaks this program to see what is lost. Off unless FRAMEPACK_FAULTS is set.

    FRAMEPACK_FAULTS="decode=kill@2, mux=disk_full"

kills the process when it decodes for the second time, and lets the first joining of a video find the disk full. A fault
strikes once; ``@n`` says at which passing of its point, the first when left out.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import signal
import threading
import time
from functools import lru_cache
from importlib import import_module
from typing import Literal, get_args

VARIABLE = "FRAMEPACK_FAULTS"
HANG_SECONDS = 3600

Point = Literal["upload", "worker", "encode", "step", "decode", "checkpoint", "mux", "move"]
Action = Literal["kill", "raise", "disk_full", "out_of_memory", "hang", "nan"]

log = logging.getLogger(__name__)

_ARMING = threading.Lock()


def passing(point: Point) -> Action | None:
    """Do what FRAMEPACK_FAULTS asks for at this passing of ``point``; returns what it was, None for nothing.

    ``nan`` is left to the caller, who has the numbers to spoil. Raises ValueError for a value that is not allowed.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    with _ARMING:  # two threads must not arm two
        faults = armed(text)
    return faults.strike(point)


@lru_cache(maxsize=1)
def armed(text: str) -> Faults:
    """The faults of ``text``. As long as the text stays the same they are the same object, so passings are counted."""
    log.warning("%s is set: this program will break at %s", VARIABLE, text)
    return Faults(text)


class Faults:
    """What is to break at which passing, and how often each point was passed."""

    def __init__(self, text: str) -> None:
        """Raises ValueError, saying what is allowed."""
        self._actions = dict(_parse(text, entry) for entry in text.split(","))
        self._passings = {point: itertools.count(1) for point in get_args(Point)}

    def strike(self, point: Point) -> Action | None:
        """Count one passing, and do what stands for it; from any thread."""
        action = self._actions.get((point, next(self._passings[point])))
        if action:
            log.warning("fault: %s at %s", action, point)
            _do(action, point)
        return action


def _parse(text: str, entry: str) -> tuple[tuple[Point, int], Action]:
    found = re.fullmatch(r"\s*(\w+)=(\w+)(?:@([1-9][0-9]{0,8}))?\s*", entry)
    if not found or found[1] not in get_args(Point) or found[2] not in get_args(Action):
        points, actions = ", ".join(get_args(Point)), ", ".join(get_args(Action))
        raise ValueError(
            f"{VARIABLE}={text!r}: allowed are point=action and point=action@n, with commas between them; "
            f"points are {points}; actions are {actions}"
        )
    return (found[1], int(found[3] or 1)), found[2]  # type: ignore[return-value]


def _do(action: Action, point: Point) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "hang":
        time.sleep(HANG_SECONDS)
    elif action == "raise":
        raise RuntimeError(f"the fault asked for at {point}")
    elif action == "disk_full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action == "out_of_memory":
        raise import_module("torch").OutOfMemoryError(f"the fault asked for at {point}")
