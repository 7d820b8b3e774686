"""Live numbers of this machine that cost next to nothing: disk, RAM, and GPU memory once torch is there anyway."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..media.files import nearest_existing


@dataclass(frozen=True)
class Space:
    """Free and total, in bytes."""

    free: int
    total: int


def disk(folder: Path) -> Space:
    """Of the disk where ``folder`` is or will be."""
    usage = shutil.disk_usage(nearest_existing(folder))
    return Space(usage.free, usage.total)


def ram() -> Space:
    """Of the whole machine."""
    memory = psutil.virtual_memory()
    return Space(memory.available, memory.total)


def torch_is_loaded() -> bool:
    """Whether a job has loaded torch; nothing here does."""
    return "torch" in sys.modules


def vram() -> Space | None:
    """Of the GPU in use; None without one, and before torch is loaded and has begun to use it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    begun = getattr(cuda, "is_initialized", None)  # torch may be half imported by the worker
    if cuda is None or begun is None or not begun():
        return None
    from ..memory.vram import driver_bytes

    return Space(*driver_bytes())


def has_nvidia_gpu() -> bool:
    """Whether an NVIDIA driver is installed; asks no torch."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
