"""The bank of canvases on disk: drawn once, in parallel, read by every training stage."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from tools.pocket.canvases import draw_canvases

LOG = logging.getLogger(__name__)
DEFAULT_WORK = Path(".pocket")
HELD_OUT_SEED, HELD_OUT = 77, 100  # canvases that are never trained on
CHUNK = 50


def load_canvases(work: Path, count: int, seed: int = 1) -> torch.Tensor:
    """The bank, `[count, S, S, 3]` uint8; drawn on the first call and kept in `work`."""
    path = work / f"canvases_{seed}_{count}.npy"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        _draw_bank(path, count, seed)
    return torch.from_numpy(np.load(path))


def _draw_bank(path: Path, count: int, seed: int) -> None:
    LOG.info("drawing %d canvases into %s", count, path)
    chunks = [CHUNK] * (count // CHUNK) + [count % CHUNK] * bool(count % CHUNK)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = list(pool.map(draw_canvases, range(seed * 1000, seed * 1000 + len(chunks)), chunks))
    partial = path.with_suffix(".part.npy")
    np.save(partial, np.concatenate(drawn))
    partial.replace(path)
