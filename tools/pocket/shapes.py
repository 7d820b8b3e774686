"""Coloured shapes that move over a still ground: the minority of scenes in which the camera rests.

Shape legend: F frames, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from tools.pocket.camera import PAN_PIXELS_PER_SECOND, SPEEDS, ZOOM_PER_SECOND
from tools.pocket.captions import COLOURS, SHAPE_MOVES, Caption

GROWTH = 2.0  # shapes grow and shrink faster than the camera zooms, else it is hardly seen


def _inside(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Soft mask 0..1 of a shape centred at 0; one pixel of smoothing."""
    if shape == "circle":
        distance = radius - (x.square() + y.square()).sqrt()
    elif shape == "square":
        distance = radius * 0.9 - torch.maximum(x.abs(), y.abs())
    else:
        distance = torch.minimum(radius * 0.6 - y, (radius * 0.6 + y) * 0.45 - x.abs() * 0.9)
    return (distance + 0.5).clamp(0, 1)


def paint_shape(rng: np.random.Generator, ground: torch.Tensor, caption: Caption, seconds: np.ndarray) -> torch.Tensor:
    """Paint the caption's shape on ground frames `[3, F, H, W]` (-1..1) at the given times `[F]`."""
    height, width = ground.shape[-2:]
    side = min(height, width)
    pace = SPEEDS[caption.speed] * float(np.exp(rng.normal(0, 0.04)))
    dx, dy, growth = SHAPE_MOVES[caption.move]
    time = torch.as_tensor(seconds)[:, None, None]
    x0, y0 = (extent * rng.uniform(0.4, 0.6) - 0.3 * d * extent for extent, d in ((width, dx), (height, dy)))
    cx = x0 + dx * PAN_PIXELS_PER_SECOND * pace * time
    cy = y0 + dy * PAN_PIXELS_PER_SECOND * pace * time
    radius = side * rng.uniform(0.12, 0.22) * torch.exp(growth * GROWTH * ZOOM_PER_SECOND * pace * time)
    ys, xs = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    mask = _inside(caption.shape, xs - cx, ys - cy, radius)[None]
    colour = torch.tensor(COLOURS[caption.colour]).float() + torch.from_numpy(rng.normal(0, 8, 3)).float()
    paint = (colour / 127.5 - 1).clamp(-1, 1).view(3, 1, 1, 1)
    return ground * (1 - mask) + paint * mask
