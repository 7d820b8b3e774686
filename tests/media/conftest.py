"""What several media tests draw or mount."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

Clip = Callable[[int, int], np.ndarray]


@pytest.fixture
def moving_clip() -> Clip:
    """``moving_clip(frames, seed)`` -> uint8 [T, 48, 64, 3]: coloured blocks that drift, so that B-frames are used."""

    def draw(frames: int, seed: int) -> np.ndarray:
        blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        canvas = blocks.repeat(8, axis=0).repeat(8, axis=1)
        return np.stack([np.roll(canvas, 2 * number, axis=1) for number in range(frames)])

    return draw


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 kB. Skips where mounting is not allowed."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not mount or not umount:
        pytest.skip("mounting a small file system needs root on Linux")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=False)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run([umount, str(folder)], check=True)
