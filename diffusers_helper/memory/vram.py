"""The GPU's memory: the one place that asks how much of it there is and is free.

*Free* has two meanings here. ``unused_bytes`` can be allocated now. ``reclaimable_bytes`` are those and all that this
process holds, weights included: what a new plan may dispose of. What people are told is neither, but what no program
holds (``driver_bytes``).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import UnusableInput
from ..limits import ALLOCATOR_VARIABLES
from .host import peak_process_memory_mb


def driver_bytes(device: torch.device | str | int | None = None) -> tuple[int, int]:
    """What the driver says is free of a GPU, and its whole memory; None is the current one."""
    free, total = torch.cuda.mem_get_info(device)
    return int(free), int(total)


def total_bytes(device: torch.device) -> int:
    """Of the whole device; 0 where it is no GPU."""
    return driver_bytes(device)[1] if device.type == "cuda" else 0


def reclaimable_bytes(device: torch.device) -> int:
    """Free for the driver, or held by this process; 0 where the device is no GPU."""
    if device.type != "cuda":
        return 0
    return driver_bytes(device)[0] + torch.cuda.memory_reserved(device)


def unused_bytes(device: torch.device | str | None = None) -> int:
    """Free for the driver, or held by PyTorch for no tensor; None is the current GPU. Elsewhere without end."""
    if device is not None and torch.device(device).type != "cuda":
        return sys.maxsize
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return driver_bytes(device)[0] + held


def segments_grow() -> bool:
    """Whether PyTorch's CUDA allocator was told to put memory that is free here and there together; it can on Linux."""
    configured = next(filter(None, map(os.environ.get, ALLOCATOR_VARIABLES)), "")
    return sys.platform == "linux" and "expandable_segments:True" in configured.replace(" ", "")


def usable_device(device: torch.device | str) -> torch.device:
    """The device; raises UnusableInput for a CUDA one where there is none."""
    target = torch.device(device)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise UnusableInput(f"{target} was asked for, but PyTorch sees no CUDA device; `bash start.sh doctor` says why")
    return target


def free_unused() -> None:
    """Let go of what no variable holds, and give PyTorch's cache back to the driver."""
    gc.collect()
    empty_cache()


def empty_cache() -> None:
    """Give PyTorch's cache back to the driver."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class SideStream:
    """A stream of its own on a GPU, for what another thread computes there beside the main one; elsewhere nothing.

    It is one and the same all along, since PyTorch keeps freed memory for the stream that had it.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """While this lasts, this thread computes there; it is over when all of that is computed."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.default_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()


def forget_peak(device: torch.device) -> None:
    """``peak_memory_mb`` counts from here, where it can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb(device: torch.device) -> float:
    """The most memory used, in MiB: of a GPU since ``forget_peak``; of a CPU by the process so far."""
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_process_memory_mb()
