"""What several media tests draw."""

from __future__ import annotations

from collections.abc import Callable

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
