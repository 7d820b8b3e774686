"""A camera over still canvases: written moves -> paths -> rendered frames.

Convention, everywhere: "the camera pans left" means that the camera turns left, so what is in the frame moves right.
In the same way a camera that rolls clockwise makes what is in the frame turn counterclockwise.
Speeds are in pixels a second at every frame size, so that what is learned at 64 pixels holds at 128.

Shape legend: B clips, F frames, H x W pixels, S canvas side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample

FPS = 30
FRAMES_PER_LATENT = 4
PAN_PIXELS_PER_SECOND = 26.0
ZOOM_PER_SECOND = 0.34  # change of ln(scale) a second
ROLL_PER_SECOND = 0.5  # radians a second: 21 pixels at a third of a 128-pixel side from the centre

SOFT_START_SECONDS = 1.0  # a camera that starts gently gathers speed evenly over this time
HALF = 0.5**0.5  # of a diagonal, along each axis

# name -> (x, y, zoom, roll): the direction in which the centre of the view moves on the canvas; zoom > 0 comes closer,
# roll > 0 turns the camera clockwise
MOVES: dict[str, tuple[float, float, float, float]] = {
    "hold": (0, 0, 0, 0),
    "left": (-1, 0, 0, 0),
    "right": (1, 0, 0, 0),
    "up": (0, -1, 0, 0),
    "down": (0, 1, 0, 0),
    "in": (0, 0, 1, 0),
    "out": (0, 0, -1, 0),
    "clockwise": (0, 0, 0, 1),
    "counterclockwise": (0, 0, 0, -1),
    "up left": (-HALF, -HALF, 0, 0),
    "up right": (HALF, -HALF, 0, 0),
    "down left": (-HALF, HALF, 0, 0),
    "down right": (HALF, HALF, 0, 0),
}
DIAGONALS = ("up left", "up right", "down left", "down right")
SPEEDS: dict[str, float] = {"slowly": 0.5, "": 1.0, "quickly": 1.6}


@dataclass(frozen=True)
class Path:
    """Where the camera looks, each `[B, F]`: centre in canvas pixels, scale in canvas pixels per frame pixel, and the
    camera's angle in radians, clockwise."""

    x: torch.Tensor
    y: torch.Tensor
    scale: torch.Tensor
    angle: torch.Tensor


@dataclass(frozen=True)
class Move:
    """What the camera does: a name of `MOVES`, a word of `SPEEDS`, and whether it starts from rest."""

    name: str
    speed: str = ""
    soft_start: bool = False


def steady_seconds(seconds: np.ndarray, soft_start: bool) -> np.ndarray:
    """For how many seconds at full speed the camera has moved after `seconds`."""
    if not soft_start:
        return seconds
    gathering = np.minimum(seconds, SOFT_START_SECONDS)
    return seconds - gathering + gathering**2 / (2 * SOFT_START_SECONDS)


def draw_paths(
    rng: np.random.Generator, moves: list[Move], seconds: np.ndarray, canvas_size: int, distance: float = 0.1
) -> Path:
    """Paths for the moves at the given times (seconds, `[F]`); speed varies by 4 %.

    `distance` is the mean ln of the scale: larger shows more of the canvas and finer detail.
    """
    direction = np.array([MOVES[m.name] for m in moves], dtype=np.float32)
    pace = np.array([SPEEDS[m.speed] for m in moves], dtype=np.float32) * np.exp(rng.normal(0, 0.04, len(moves)))
    gone = np.stack([steady_seconds(seconds, m.soft_start) for m in moves])
    shift = (gone - gone.mean(1, keepdims=True)) * pace[:, None]
    start_scale = np.exp(rng.uniform(distance - 0.35, distance + 0.35, len(moves)))[:, None]
    x0, y0 = rng.normal(canvas_size / 2, canvas_size / 9, (2, len(moves), 1))
    x = x0 + direction[:, :1] * PAN_PIXELS_PER_SECOND * shift * start_scale
    y = y0 + direction[:, 1:2] * PAN_PIXELS_PER_SECOND * shift * start_scale
    scale = start_scale * np.exp(-direction[:, 2:3] * ZOOM_PER_SECOND * shift)
    angle = direction[:, 3:] * ROLL_PER_SECOND * shift
    return Path(*(torch.as_tensor(a, dtype=torch.float32) for a in (x, y, scale, angle)))


def _grid(path: Path, height: int, width: int, canvas_size: int) -> torch.Tensor:
    """Sampling positions in -1..1 on the canvas, `[B, F*H, W, 2]`."""
    ys = (torch.arange(height, dtype=torch.float32) - (height - 1) / 2)[:, None]
    xs = torch.arange(width, dtype=torch.float32) - (width - 1) / 2
    x, y, scale, angle = (t[..., None, None] for t in (path.x, path.y, path.scale, path.angle))  # [B, F, 1, 1]
    across, along = scale * angle.cos(), scale * angle.sin()
    batch, frames = path.x.shape
    grid = torch.stack([x + across * xs - along * ys, y + along * xs + across * ys], -1)
    grid = (grid + 0.5) * (2 / canvas_size) - 1
    return grid.reshape(batch, frames * height, width, 2)


def render(canvases: torch.Tensor, path: Path, height: int, width: int) -> torch.Tensor:
    """What the camera sees.

    Args:
        canvases: `[B, S, S, 3]` uint8.
        path: `[B, F]` each.

    Returns:
        `[B, 3, F, H, W]` float32 in -1..1.
    """
    batch, frames = path.x.shape
    pictures = canvases.permute(0, 3, 1, 2).float()
    grid = _grid(path, height, width, canvases.shape[1])
    seen = grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return seen.reshape(batch, 3, frames, height, width) / 127.5 - 1


def latent_times(count: int) -> np.ndarray:
    """Times in seconds of `count` latent frames: latent t shows video frame 4t."""
    return np.arange(count, dtype=np.float32) * FRAMES_PER_LATENT / FPS
