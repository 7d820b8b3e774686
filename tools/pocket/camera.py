"""A camera over still canvases: written moves -> paths -> rendered frames.

Convention, everywhere: "the camera pans left" means that the camera turns left, so what is in the frame moves right.
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

# name -> (x, y, zoom): the direction in which the centre of the view moves on the canvas; zoom > 0 comes closer
MOVES: dict[str, tuple[float, float, float]] = {
    "hold": (0, 0, 0),
    "left": (-1, 0, 0),
    "right": (1, 0, 0),
    "up": (0, -1, 0),
    "down": (0, 1, 0),
    "in": (0, 0, 1),
    "out": (0, 0, -1),
}
SPEEDS: dict[str, float] = {"slowly": 0.5, "": 1.0, "quickly": 1.6}


@dataclass(frozen=True)
class Path:
    """Where the camera looks: centre in canvas pixels and scale in canvas pixels per frame pixel, each `[B, F]`."""

    x: torch.Tensor
    y: torch.Tensor
    scale: torch.Tensor


def draw_paths(
    rng: np.random.Generator,
    moves: list[str],
    speeds: list[str],
    seconds: np.ndarray,
    canvas_size: int,
    distance: float = 0.1,
) -> Path:
    """Steady paths for the named moves and speeds at the given times (seconds, `[F]`); speed varies by 4 %.

    `distance` is the mean ln of the scale: larger shows more of the canvas and finer detail.
    """
    direction = np.array([MOVES[m] for m in moves], dtype=np.float32)
    pace = np.array([SPEEDS[s] for s in speeds], dtype=np.float32) * np.exp(rng.normal(0, 0.04, len(moves)))
    middle = seconds.mean()
    shift = (seconds - middle)[None] * pace[:, None]
    start_scale = np.exp(rng.uniform(distance - 0.35, distance + 0.35, len(moves)))[:, None]
    x0, y0 = rng.normal(canvas_size / 2, canvas_size / 9, (2, len(moves), 1))
    x = x0 + direction[:, :1] * PAN_PIXELS_PER_SECOND * shift * start_scale
    y = y0 + direction[:, 1:2] * PAN_PIXELS_PER_SECOND * shift * start_scale
    scale = start_scale * np.exp(-direction[:, 2:] * ZOOM_PER_SECOND * shift)
    return Path(*(torch.as_tensor(a, dtype=torch.float32) for a in (x, y, scale)))


def _grid(path: Path, height: int, width: int, canvas_size: int) -> torch.Tensor:
    """Sampling positions in -1..1 on the canvas, `[B, F*H, W, 2]`."""
    ys = torch.arange(height, dtype=torch.float32) - (height - 1) / 2
    xs = torch.arange(width, dtype=torch.float32) - (width - 1) / 2
    y = path.y[..., None] + path.scale[..., None] * ys  # [B, F, H]
    x = path.x[..., None] + path.scale[..., None] * xs  # [B, F, W]
    batch, frames = path.x.shape
    grid = torch.stack([x[:, :, None].expand(-1, -1, height, -1), y[..., None].expand(-1, -1, -1, width)], -1)
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
