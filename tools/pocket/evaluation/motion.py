"""Measure camera motion from frames alone: shift, zoom and roll between frames, by Gauss-Newton alignment.

Shape legend: F frames, H x W pixels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch.nn import functional

from tools.pocket.camera import MOVES, PAN_PIXELS_PER_SECOND, ROLL_PER_SECOND, ZOOM_PER_SECOND

STRIDE = 3  # video frames between two that are aligned; their motion is a few pixels
ITERATIONS = 12
BLUR = 1.5
MARGIN = 8
TRIES_PER_SECOND = 40
STILL_PIXELS = 5.0  # less motion than this over a second's clip counts as holding still


@dataclass(frozen=True)
class Motion:
    """Movement of the picture's content from first to last frame: pixels to the right and down, ln of magnification,
    radians clockwise."""

    right: float
    down: float
    zoom: float
    roll: float = 0.0

    def strengths(self, side: int) -> dict[str, float]:
        """Pixels by which each camera move is seen; the camera moves the other way than what is before it."""
        radius = side / 3
        camera = (-self.right, -self.down, self.zoom * radius, -self.roll * radius)
        return {
            name: sum(seen * part for seen, part in zip(camera, direction, strict=True))
            for name, direction in MOVES.items()
            if name != "hold"
        }

    def camera_move(self, side: int) -> str:
        """The camera move that this is most."""
        strengths = self.strengths(side)
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


def _places(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns from the centre, `[H, W]` each."""
    ys = (torch.arange(height, dtype=torch.float32) - (height - 1) / 2)[:, None].expand(height, width)
    return ys, (torch.arange(width, dtype=torch.float32) - (width - 1) / 2)[None].expand(height, width)


def _warped(
    frame: torch.Tensor, motion: torch.Tensor, xs: torch.Tensor, ys: torch.Tensor, beyond: str = "border"
) -> torch.Tensor:
    """The frame `[H, W]` looked up where content at (x, y) has gone: magnified and turned, then shifted."""
    height, width = frame.shape
    dx, dy, zoom, roll = motion
    cos, sin = (zoom.exp() * roll.cos(), zoom.exp() * roll.sin())
    x, y = cos * xs - sin * ys + dx, sin * xs + cos * ys + dy
    grid = torch.stack([x / (width / 2), y / (height / 2)], -1)[None]
    return functional.grid_sample(frame[None, None], grid, padding_mode=beyond, align_corners=False)[0, 0]


def align(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(dx, dy, zoom, roll) that carries the content of `first` to where it is in `second`, both `[H, W]`."""
    ys, xs = _places(*first.shape)
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


def trace(clip: torch.Tensor, stride: int = STRIDE) -> torch.Tensor:
    """Motion between near frames of a clip `[3, F, H, W]`: rows of (dx, dy, zoom, roll)."""
    grey = luminance(clip)
    places = [*range(0, len(grey) - 1, stride), len(grey) - 1]
    return torch.stack([align(grey[a], grey[b]) for a, b in itertools.pairwise(places)])


def measure(clip: torch.Tensor) -> Motion:
    """Motion of a whole clip `[3, F, H, W]`."""
    return Motion(*(float(v) for v in trace(clip).sum(0)))


def extent(first: torch.Tensor, second: torch.Tensor, move: str, seconds: float) -> float:
    """How far along a camera move `second` is from `first` (`[3, H, W]`), in seconds of that move at its usual pace.

    For pictures that lie too far apart for `align`: tries up to `seconds` of the move and takes the time at which the
    shared part of the pictures agrees best.
    """
    grey, (height, width) = luminance(torch.stack([first, second], 1)), first.shape[1:]
    ys, xs = _places(height, width)
    tries = torch.linspace(0, seconds, 1 + round(seconds * TRIES_PER_SECOND))
    scores = [_agreement(grey[0], grey[1], _moved(move, float(t)), xs, ys) for t in tries]
    return float(tries[int(torch.tensor(scores).argmax())])


def _moved(move: str, seconds: float) -> torch.Tensor:
    """(dx, dy, zoom, roll) of the content after some seconds of a camera move."""
    x, y, zoom, roll = MOVES[move]
    pixels = PAN_PIXELS_PER_SECOND * seconds
    return torch.tensor([-x * pixels, -y * pixels, zoom * ZOOM_PER_SECOND * seconds, -roll * ROLL_PER_SECOND * seconds])


def _agreement(
    first: torch.Tensor, second: torch.Tensor, motion: torch.Tensor, xs: torch.Tensor, ys: torch.Tensor
) -> float:
    """Correlation of the part that both pictures show."""
    shared = _warped(torch.ones_like(second), motion, xs, ys, "zeros") > 0.99
    one, other = (part - part.mean() for part in (first[shared], _warped(second, motion, xs, ys)[shared]))
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-9))
