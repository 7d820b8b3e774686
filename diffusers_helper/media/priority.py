"""Encoders compute beside other programs, not before them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_THREADS = Path("/proc/self/task")


@contextmanager
def usual_priority() -> Iterator[None]:
    """Of what is raised meanwhile, this thread and those that it begins, the priority is as before afterwards.

    Where root runs it, SVT-AV1 makes the thread that opens it a real-time one, for good, and so are its own: as long as
    they compute, no other thread of the machine does. Whatever this thread begins later would be the same.
    """
    if not _THREADS.is_dir():
        yield
        return
    before, policy, parameters = _threads(), os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in _threads() - before | {threading.get_native_id()}:
            with suppress(OSError):  # it has ended, or nothing may be set here; then nothing was raised either
                os.sched_setscheduler(thread, policy, parameters)


def _threads() -> set[int]:
    return {int(thread.name) for thread in _THREADS.iterdir()}
