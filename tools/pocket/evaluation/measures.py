"""Figures of a clip: sharpness, calm, how motion passes a seam, and the table's rows.

Shape legend: F frames, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata

from tools.pocket.camera import FPS, MOVES
from tools.pocket.codec import psnr
from tools.pocket.evaluation import motion

STILL_PER_FRAME = motion.STILL_PIXELS / FPS
SEAM_FRAMES = 8  # looked at on either side of a seam
STOP_SHARE = 0.3  # of the steady motion; less than this around a seam is a stop
JUMP_PIXELS = 2.0
SAME_PICTURE_DB = 16.0


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure and the bounds it should keep."""

    what: str
    value: float
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def reached(self) -> bool:
        """Whether the figure is within its bounds; no figure is not."""
        return self.at_least <= self.value <= self.at_most

    @property
    def wanted(self) -> str:
        """The bounds in words."""
        if math.isinf(self.at_most):
            return f"at least {self.at_least:g}"
        return f"at most {self.at_most:g}" if math.isinf(self.at_least) else f"{self.at_least:g} to {self.at_most:g}"

    def content(self) -> dict[str, object]:
        """For JSON."""
        return {"what": self.what, "value": round(self.value, 3), "wanted": self.wanted, "reached": self.reached}


def share(values: Sequence[bool]) -> float:
    """Share of true ones; not a number of nothing."""
    return float(np.mean(values)) if len(values) else math.nan


def gradient_energy(clip: torch.Tensor) -> float:
    """Mean squared difference of neighbouring pixels of `[3, F, H, W]`."""
    return float(clip.diff(dim=-1).square().mean() + clip.diff(dim=-2).square().mean())


def sharpness_kept(clip: torch.Tensor) -> float:
    """Gradient energy of the last second over that of the first."""
    return gradient_energy(clip[:, -FPS:]) / max(gradient_energy(clip[:, :FPS]), 1e-9)


def motion_per_frame(clip: torch.Tensor) -> float:
    """Mean length of the way from frame to frame in pixels; zoom and roll count at a third of the side."""
    steps, side = motion.trace(clip), min(clip.shape[-2:])
    return sum(motion.Motion(*step).distance(side) for step in steps.tolist()) / (clip.shape[1] - 1)


def is_calm(clip: torch.Tensor) -> bool:
    """Neither motion nor noise: the last frame still is the first picture."""
    return motion_per_frame(clip) < STILL_PER_FRAME and psnr(clip[None, :, -1], clip[None, :, 0]) > SAME_PICTURE_DB


def starts_from_rest(clip: torch.Tensor, move: str) -> bool | None:
    """For a pan: whether its first third goes less than half as far as its last third; None if it does not pan."""
    along = motion.trace(clip)[:, :2] @ -torch.tensor(MOVES[move][:2]).float()
    third = len(along) // 3
    start, end = float(along[:third].sum()), float(along[-third:].sum())
    return start < 0.5 * end if end > STILL_PER_FRAME * motion.STRIDE * third else None


def seams_passed(clip: torch.Tensor, move: str, section_frames: int) -> list[bool]:
    """For a pan: whether its motion goes on through each seam, without a stop and without a jump."""
    wanted = -torch.tensor(MOVES[move][:2]).float()
    steps = motion.trace(clip, stride=1)[:, :2]
    along = steps @ wanted
    steady = float(along.median())
    passed = []
    for seam in range(section_frames, len(steps), section_frames):
        near = slice(seam - SEAM_FRAMES, seam + SEAM_FRAMES)
        goes_on = steady > STILL_PER_FRAME and float(along[near].mean()) > STOP_SHARE * steady
        jump = float((steps[near] - steady * wanted).norm(dim=1).max())
        passed.append(goes_on and jump <= JUMP_PIXELS)
    return passed


def rank_correlation(order: Sequence[float], values: Sequence[float]) -> float:
    """Spearman's; 0 when all values are equal."""
    ranks = [rankdata(v) - (len(v) + 1) / 2 for v in (order, values)]
    norm = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    return float(ranks[0] @ ranks[1]) / norm if norm else 0.0
