"""Coloured shapes that move over a still ground: the minority of scenes in which the camera rests.

Shape legend: F frames, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from tools.pocket.camera import PAN_PIXELS_PER_SECOND, SPEEDS, ZOOM_PER_SECOND
from tools.pocket.captions import Caption, Figure
from tools.pocket.shape_captions import COLOURS

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
GROWTH_PER_SECOND = {"grow": 2 * ZOOM_PER_SECOND, "shrink": -2 * ZOOM_PER_SECOND}  # as a zoom it would hardly be seen
SPIN_PER_SECOND = 1.8  # radians, clockwise
BOUNCES_PER_SECOND = 0.9
BOUNCE_HEIGHT = 0.22  # of the frame's shorter side
RECOLOUR_SECONDS = 1.0
TEXTURE_CONTRAST = 0.6  # of a canvas as a ground, so that shapes stand out
CONTRAST = 110.0  # between a ground and a shape, in RGB of 0..255
TIP = np.pi / 5  # half of the angle that one tip of a star has


def inside(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Soft mask 0..1 of a shape centred at 0; one pixel of smoothing."""
    far = (x.square() + y.square()).sqrt()
    if shape == "circle":
        distance = radius - far
    elif shape == "ring":
        distance = 0.25 * radius - (far - 0.8 * radius).abs()
    elif shape == "square":
        distance = radius * 0.9 - torch.maximum(x.abs(), y.abs())
    elif shape == "star":
        distance = _star(x, y, far, radius)
    else:
        distance = torch.minimum(radius * 0.6 - y, (radius * 0.6 + y) * 0.45 - x.abs() * 0.9)
    return (distance + 0.5).clamp(0, 1)


def _star(x: torch.Tensor, y: torch.Tensor, far: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Distance to the edge of five tips, one of them up; all tips are folded onto one edge."""
    angle = torch.atan2(x, -y)
    angle = (torch.remainder(angle + TIP, 2 * TIP) - TIP).abs()
    tip, notch = 1.25, 0.55
    edge = np.array([notch * np.cos(TIP) - tip, notch * np.sin(TIP)])
    out_x, out_y = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return out_x * (tip * radius - far * angle.cos()) - out_y * far * angle.sin()


def _colour(name: str) -> torch.Tensor:
    return torch.tensor(COLOURS[name]).float()


def paint_ground(rng: np.random.Generator, caption: Caption, ground: torch.Tensor) -> torch.Tensor:
    """The caption's ground, `[3, F, H, W]`: plain or gradient paint, or the given frames, paler."""
    if caption.ground == "textured":
        return ground * TEXTURE_CONTRAST
    height, width = ground.shape[-2:]
    first, second = (_ground_colour(rng, caption.figures) for _ in range(2))
    if caption.ground == "plain":
        second = first
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    ramp = (0.5 + 0.35 * (np.cos(angle) * xs + np.sin(angle) * ys)).float()
    paint = first.view(3, 1, 1) * ramp + second.view(3, 1, 1) * (1 - ramp)
    return (paint / 127.5 - 1)[:, None].expand_as(ground).clone()


def _ground_colour(rng: np.random.Generator, figures: tuple[Figure, ...]) -> torch.Tensor:
    """A colour that stands out from the shapes; the best of some tries."""
    names = {name for figure in figures for name in (figure.colour, figure.becomes) if name}
    shapes = torch.stack([_colour(name) for name in sorted(names)])
    tries = torch.from_numpy(rng.uniform(10, 245, (20, 3))).float()
    contrast = torch.cdist(tries, shapes).amin(1)
    good = (contrast > CONTRAST).nonzero()
    return tries[int(good[0])] if len(good) else tries[int(contrast.argmax())]


def _fade(rng: np.random.Generator, figure: Figure, time: torch.Tensor) -> torch.Tensor:
    """Colours over time in -1..1, `[3, F, 1, 1]`."""
    share = (time / RECOLOUR_SECONDS).clamp(0, 1)[None]
    error = torch.from_numpy(rng.normal(0, 8, 3)).float()
    start, end = ((_colour(name) + error).view(3, 1, 1, 1) for name in (figure.colour, figure.becomes or figure.colour))
    return ((start * (1 - share) + end * share) / 127.5 - 1).clamp(-1, 1)


def _paint_figure(
    rng: np.random.Generator, clip: torch.Tensor, figure: Figure, seconds: torch.Tensor, place: float, size: float
) -> torch.Tensor:
    """One figure over `[3, F, H, W]`, that begins about `place` of the width from the left."""
    height, width = clip.shape[-2:]
    side = min(height, width)
    time = seconds.view(-1, 1, 1) * SPEEDS[figure.speed] * float(np.exp(rng.normal(0, 0.04)))
    dx, dy = DIRECTIONS.get(figure.move, (0, 0))
    cx = (place + rng.uniform(-0.06, 0.06) - 0.25 * dx) * width + dx * PAN_PIXELS_PER_SECOND * time
    cy = (rng.uniform(0.4, 0.6) - 0.25 * dy) * height + dy * PAN_PIXELS_PER_SECOND * time
    if figure.move == "bounce":
        cy = cy + side * BOUNCE_HEIGHT * (0.5 - (np.pi * BOUNCES_PER_SECOND * time).sin().abs())
    radius = side * size * torch.exp(GROWTH_PER_SECOND.get(figure.move, 0.0) * time)
    turn = rng.normal(0, 0.2) + (SPIN_PER_SECOND * time if figure.move == "spin" else 0 * time)
    ys, xs = torch.arange(height).view(1, -1, 1) - cy, torch.arange(width).view(1, 1, -1) - cx
    x, y = turn.cos() * xs + turn.sin() * ys, turn.cos() * ys - turn.sin() * xs
    mask = inside(figure.shape, x, y, radius)[None]
    return clip * (1 - mask) + _fade(rng, figure, time) * mask


def paint_figures(rng: np.random.Generator, clip: torch.Tensor, caption: Caption, seconds: np.ndarray) -> torch.Tensor:
    """The caption's figures on frames `[3, F, H, W]` (-1..1) at the given times `[F]`."""
    times = torch.as_tensor(seconds).float()
    if len(caption.figures) == 1:
        return _paint_figure(rng, clip, caption.figures[0], times, 0.5, rng.uniform(0.12, 0.22))
    for figure, place in zip(caption.figures, rng.permutation([0.28, 0.72]), strict=True):
        clip = _paint_figure(rng, clip, figure, times, float(place), rng.uniform(0.09, 0.15))
    return clip


def paint_shapes(rng: np.random.Generator, view: torch.Tensor, caption: Caption, seconds: np.ndarray) -> torch.Tensor:
    """The caption's whole scene; `view` are frames `[3, F, H, W]` of a canvas, the ground where it is textured."""
    return paint_figures(rng, paint_ground(rng, caption, view), caption, seconds)
