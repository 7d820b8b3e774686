"""Pairs of pictures of which a third is made: what kisekaeichi and 1f-mc are shown with on the pocket.

A picture is one large shape on a ground. The shape is painted plain, striped or checked; the ground is a gradient.
All that differs from pair to pair is drawn from a seed, colours from all there are; so a seed that no training has
drawn from gives pairs that are new to it.

Shape legend: H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from tools.pocket.shapes import inside

Way = Literal["kisekaeichi", "1f-mc"]
SHAPES = {"circle": 1.0, "square": 1.0, "triangle": 1.5}
"""Form -> how many times the radius of others it has, to cover as much."""
TEXTURES = ("plain", "striped", "checked")
STRIPE = 8
"""Pixels that a stripe, or a field of the checks, is wide."""
CONTRAST = 90.0
"""At least so far apart, in RGB of 0..255, are the colours that have to be told apart."""
SLOPE = 25.0
"""So far do the colours of a ground go from its middle."""


@dataclass(frozen=True)
class Paint:
    """The colours of a texture, in 0..255; a plain one shows the first alone."""

    texture: str
    colours: tuple[np.ndarray, np.ndarray]

    @property
    def mean(self) -> np.ndarray:
        """The colour that it has from afar, ``[3]``."""
        return self.colours[0] if self.texture == "plain" else (self.colours[0] + self.colours[1]) / 2


@dataclass(frozen=True)
class Shape:
    """A painted shape; its place and radius are shares of the picture's side."""

    form: str
    x: float
    y: float
    radius: float
    paint: Paint


@dataclass(frozen=True)
class Ground:
    """A colour in 0..255, which goes up and down by ``slope`` along a direction (x, y)."""

    colour: np.ndarray
    slope: np.ndarray
    direction: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """A shape on a ground."""

    ground: Ground
    shape: Shape


@dataclass(frozen=True)
class Pair:
    """Two pictures that are given, in their order."""

    first: Scene
    second: Scene

    def swapped(self) -> Pair:
        """The same in the other order."""
        return Pair(self.second, self.first)

    def target(self, way: Way) -> Scene:
        """Kisekaeichi: the first, whose shape is painted as the second's. 1f-mc: the second's shape on its ground."""
        if way == "1f-mc":
            return Scene(self.first.ground, self.second.shape)
        return replace(self.first, shape=replace(self.first.shape, paint=self.second.shape.paint))


def draw_pair(rng: np.random.Generator) -> Pair:
    """Two scenes whose colours are told apart."""
    while True:
        pair = Pair(_draw_scene(rng), _draw_scene(rng))
        (ground, shape), (other_ground, other_shape) = map(_colours, (pair.first, pair.second))
        looks = ((ground, other_ground), (shape, other_shape), (ground, other_shape), (other_ground, shape))
        if all(apart(*each) > CONTRAST for each in looks):
            return pair


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """How far two colours ``[3]`` are."""
    return float(np.linalg.norm(one - other))


def _colours(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    return scene.ground.colour, scene.shape.paint.mean


def _draw_scene(rng: np.random.Generator) -> Scene:
    """One whose shape is seen, and its texture too."""
    while True:
        ground, first, second = rng.uniform(30, 225, (3, 3))
        worn = Paint(str(rng.choice(TEXTURES)), (first, second))
        scene = Scene(_draw_ground(rng, ground), _draw_shape(rng, worn))
        if min(apart(first, second), *(apart(ground, each) for each in (first, second, worn.mean))) > CONTRAST:
            return scene


def _draw_ground(rng: np.random.Generator, colour: np.ndarray) -> Ground:
    angle = rng.uniform(0, 2 * np.pi)
    return Ground(colour, rng.uniform(-SLOPE, SLOPE, 3), (float(np.cos(angle)), float(np.sin(angle))))


def _draw_shape(rng: np.random.Generator, worn: Paint) -> Shape:
    """Large, and about the middle."""
    form = str(rng.choice(list(SHAPES)))
    x, y = rng.uniform(0.44, 0.56, 2)
    return Shape(form, float(x), float(y), float(rng.uniform(0.28, 0.36)) * SHAPES[form], worn)


def paint(scene: Scene, side: int) -> np.ndarray:
    """The picture, uint8 ``[side, side, 3]``."""
    share = mask(scene.shape, side)[..., None]
    made = paint_ground(scene.ground, side) * (1 - share) + _paint_texture(scene.shape.paint, side) * share
    return made.round().clip(0, 255).astype(np.uint8)


def paint_ground(ground: Ground, side: int) -> np.ndarray:
    """``[side, side, 3]`` in 0..255."""
    grid = np.linspace(-1, 1, side)
    x, y = ground.direction
    return ground.colour + (x * grid[None, :, None] + y * grid[:, None, None]) * ground.slope


def mask(shape: Shape, side: int) -> np.ndarray:
    """Where the shape is, ``[side, side]`` in 0..1."""
    grid = torch.arange(side) + 0.5
    xs, ys = grid[None, :] - shape.x * side, grid[:, None] - shape.y * side
    return inside(shape.form, xs, ys, torch.tensor(shape.radius * side)).double().numpy()


def fields(texture: str, side: int) -> np.ndarray:
    """Which of the two colours is where, ``[side, side]`` of 1 for the first and -1 for the second."""
    odd = np.arange(side) // STRIPE % 2
    if texture == "plain":
        return np.ones((side, side))
    second = odd[None, :] ^ odd[:, None] if texture == "checked" else np.broadcast_to(odd[None, :], (side, side))
    return 1.0 - 2.0 * second


def _paint_texture(paint: Paint, side: int) -> np.ndarray:
    first, second = paint.colours
    return np.where(fields(paint.texture, side)[..., None] > 0, first, second)
