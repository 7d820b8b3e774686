"""Follow a coloured shape through a clip whose ground is known: where it is, how large, how turned, which colour.

Shape legend: F frames, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from tools.pocket.captions import Figure
from tools.pocket.shape_captions import COLOURS, ROUND

GROUND_DISTANCE = 45.0  # in RGB of 0..255: what is nearer to the ground than this is ground
COLOUR_DISTANCE = 90.0  # what is farther from the shape's colours than this is something else
TIPS = {"square": 4, "triangle": 3, "star": 5}  # turns by 1 / n of a circle look alike
# what a move at the middle speed does in one section (1.2 s), for a frame of 128 pixels
USUAL = {"glide": 0.24, "growth": 1.6, "turn": 2.1, "bounce": 0.2, "colour": 1.0}
LEAST = 0.25  # of the usual; less is holding still


@dataclass(frozen=True)
class Track:
    """One shape over time, each `[F]`: centre and ln of the area in pixels, angle in radians (clockwise, unwrapped),
    and how far its colour has gone from the first to the second (0..1)."""

    x: np.ndarray
    y: np.ndarray
    area: np.ndarray
    angle: np.ndarray
    colour: np.ndarray

    def strengths(self, shape: str, side: int) -> dict[str, float]:
        """Each move that a shape can make, as a share of its usual extent."""
        x, y = (float(v[-1] - v[0]) / side / USUAL["glide"] for v in (self.x, self.y))
        growth = float(self.area[-1] - self.area[0]) / USUAL["growth"]
        way = float(np.ptp(self.y) - abs(self.y[-1] - self.y[0])) / side / USUAL["bounce"]
        return {
            "left": -x,
            "right": x,
            "up": -y,
            "down": y,
            "grow": growth,
            "shrink": -growth,
            "spin": 0.0 if shape in ROUND else abs(float(self.angle[-1] - self.angle[0])) / USUAL["turn"],
            "bounce": way,
            "recolour": float(self.colour[-1] - self.colour[0]) / USUAL["colour"],
        }

    def move(self, shape: str, side: int) -> str:
        """The move that this is most."""
        strengths = self.strengths(shape, side)
        best = max(strengths, key=strengths.__getitem__)
        return best if strengths[best] > LEAST else "hold"


def _colours(figure: Figure) -> torch.Tensor:
    """Its first and last colour, `[2, 3]` in 0..255."""
    return torch.tensor([COLOURS[figure.colour], COLOURS[figure.becomes or figure.colour]]).float()


def _towards(pixels: torch.Tensor, figure: Figure) -> tuple[torch.Tensor, torch.Tensor]:
    """For pixels `[F, H, W, 3]`: how far each lies on the way between the figure's colours, and its distance to it."""
    first, last = _colours(figure)
    way = last - first
    along = ((pixels - first) @ way / way.square().sum().clamp_min(1.0)).clamp(0, 1)
    return along, (pixels - first - along[..., None] * way).norm(dim=-1)


def _mask(pixels: torch.Tensor, ground: torch.Tensor, figure: Figure, others: list[Figure]) -> torch.Tensor:
    """Where the figure is, `[F, H, W]` 0..1: no ground, of its colour, and not rather another figure's."""
    foreign = avg_pool2d((pixels - ground).norm(dim=-1), 3, stride=1, padding=1, count_include_pad=False)
    _, distance = _towards(pixels, figure)
    mask = (foreign > GROUND_DISTANCE) & (distance < COLOUR_DISTANCE)
    for other in others:
        mask &= distance < _towards(pixels, other)[1]
    return mask.float()


def follow(clip: torch.Tensor, ground: torch.Tensor, figure: Figure, others: list[Figure]) -> Track:
    """Follow `figure` in a clip `[3, F, H, W]` over a ground `[3, 1, H, W]`, both in -1..1."""
    pixels, still = ((c.float().permute(1, 2, 3, 0) + 1) * 127.5 for c in (clip, ground))
    mask = _mask(pixels, still, figure, others)
    area = mask.sum((1, 2))
    weight = mask / area.clamp_min(1)[:, None, None]
    ys, xs = torch.arange(mask.shape[1]).view(1, -1, 1), torch.arange(mask.shape[2]).view(1, 1, -1)
    x, y = (weight * xs).sum((1, 2)), (weight * ys).sum((1, 2))
    along, _ = _towards(pixels, figure)
    angle = _angles(weight, xs - x[:, None, None], ys - y[:, None, None], TIPS.get(figure.shape, 1))
    colour = (weight * along).sum((1, 2)).numpy()
    return Track(x.numpy(), y.numpy(), area.clamp_min(1).log().numpy(), angle, colour)


def _angles(weight: torch.Tensor, xs: torch.Tensor, ys: torch.Tensor, tips: int) -> np.ndarray:
    """The shape's turn, from the phase of its moment with as many corners as it has."""
    radius, angle = (xs.square() + ys.square()).sqrt(), torch.atan2(ys, xs)
    moment = (weight * radius.pow(tips) * torch.exp(1j * tips * angle)).sum((1, 2))
    return np.unwrap(moment.angle().numpy()) / tips
