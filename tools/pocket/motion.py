"""Measure camera motion from frames alone: shift, zoom and roll between frames, by Gauss-Newton alignment.

Shape legend: F frames, H x W pixels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch.nn import functional

STRIDE = 3  # video frames between two that are aligned; their motion is a few pixels
ITERATIONS = 12
BLUR = 1.5
MARGIN = 8
STILL_PIXELS = 5.0  # less motion than this over a second's clip counts as holding still


@dataclass(frozen=True)
class Motion:
    """Movement of the picture's content from first to last frame: pixels to the right and down, ln of magnification,
    radians clockwise."""

    right: float
    down: float
    zoom: float
    roll: float = 0.0

    def camera_move(self, side: int) -> str:
        """The camera move that this is: the camera moves the other way than what it sees."""
        radius = side / 3
        strengths = {
            "left": self.right,
            "right": -self.right,
            "up": self.down,
            "down": -self.down,
            "in": self.zoom * radius,
            "out": -self.zoom * radius,
            "clockwise": -self.roll * radius,
            "counterclockwise": self.roll * radius,
        }
        best = max(strengths, key=strengths.__getitem__)
        return best if strengths[best] > STILL_PIXELS else "hold"

    def distance(self, side: int) -> float:
        """Pixels moved, zoom and roll counted at a third of the side from the centre."""
        return float((self.right**2 + self.down**2) ** 0.5 + (abs(self.zoom) + abs(self.roll)) * side / 3)


def luminance(clip: torch.Tensor) -> torch.Tensor:
    """`[3, F, H, W]` -> blurred grey `[F, H, W]` float32."""
    grey = clip.float().mean(0)[:, None]
    reach = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-reach.square() / (2 * BLUR**2))
    kernel = kernel / kernel.sum()
    padded = functional.pad(grey, (4, 4, 4, 4), mode="reflect")
    return functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


def _warped(frame: torch.Tensor, motion: torch.Tensor, xs: torch.Tensor, ys: torch.Tensor) -> torch.Tensor:
    """The frame `[H, W]` looked up where content at (x, y) has gone: magnified and turned, then shifted."""
    height, width = frame.shape
    dx, dy, zoom, roll = motion
    cos, sin = (zoom.exp() * roll.cos(), zoom.exp() * roll.sin())
    x, y = cos * xs - sin * ys + dx, sin * xs + cos * ys + dy
    grid = torch.stack([x / (width / 2), y / (height / 2)], -1)[None]
    return functional.grid_sample(frame[None, None], grid, padding_mode="border", align_corners=False)[0, 0]


def align(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(dx, dy, zoom, roll) that carries the content of `first` to where it is in `second`, both `[H, W]`."""
    height, width = first.shape
    ys = (torch.arange(height, dtype=torch.float32) - (height - 1) / 2)[:, None].expand(height, width)
    xs = (torch.arange(width, dtype=torch.float32) - (width - 1) / 2)[None].expand(height, width)
    inner = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    motion = torch.zeros(4)
    for _ in range(ITERATIONS):
        seen = _warped(second, motion, xs, ys)
        down, right = torch.gradient(seen)
        zoomed, rolled = right * xs + down * ys, down * xs - right * ys
        columns = torch.stack([g[inner].flatten() for g in (right, down, zoomed, rolled)], 1)
        error = (first - seen)[inner].flatten()
        normal = columns.T @ columns + 1e-4 * torch.eye(4)
        motion = motion + torch.linalg.solve(normal, columns.T @ error).clamp(-3, 3)
    return motion


def measure(clip: torch.Tensor) -> Motion:
    """Motion of a clip `[3, F, H, W]`, accumulated over pairs of near frames."""
    grey = luminance(clip)
    places = [*range(0, len(grey) - 1, STRIDE), len(grey) - 1]
    steps = [align(grey[a], grey[b]) for a, b in itertools.pairwise(places)]
    total = torch.stack(steps).sum(0)
    return Motion(*(float(v) for v in total))
