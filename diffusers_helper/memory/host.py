"""RAM: how much of it there is for this program, and how much it has held."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

CONTAINER = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Ram:
    """In bytes; ``free`` is what may still be used, files in the cache counted as free."""

    total: int
    free: int


def read_ram(container: Path = CONTAINER) -> Ram:
    """Of this machine; in a container, of what that may use."""
    memory = psutil.virtual_memory()
    limit, free = _limit(container) or (memory.total, memory.available)
    return Ram(min(limit, memory.total), min(free, memory.available))


def _limit(container: Path) -> tuple[int, int] | None:
    """A container's limit and what is free of it; None outside and where there is none."""
    try:
        limit, used = (int((container / name).read_text()) for name in ("memory.max", "memory.current"))
        rows = (line.split() for line in (container / "memory.stat").read_text().splitlines())
        cached = sum(int(count) for name, count in rows if name in ("active_file", "inactive_file"))
    except (OSError, ValueError):  # no such file outside a container, the word "max" in one without a limit
        return None
    return limit, max(limit - used + cached, 0)


def peak_process_memory_mb() -> float:
    """The most memory this process has held, in MiB; where the system does not keep that, what it holds now."""
    memory = psutil.Process().memory_info()
    if sys.platform == "win32":
        return float(memory.peak_wset) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
