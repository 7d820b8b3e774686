"""Whether a picture that was made of two is what it should be: the paint of its shape, and the ground around it.

Shape legend: H x W pixels, n pixels of a region.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tools.pocket.one_frame_scenes import TEXTURES, Pair, Shape, Way, apart, fields, mask, paint

NEAR = 40.0
"""In RGB of 0..255: mean colours that are nearer than this are the same. What has to be told apart is more than twice
as far (``CONTRAST``), so that nothing is near to both."""
SEEN = 22.0
"""Half the difference of two colours from which on their texture is seen; drawn ones have twice as much or more."""
WITHIN, BEYOND = 0.85, 1.2
"""Of a shape's radius: nearer to its middle there is nothing but its paint, farther out nothing but ground."""
SMALLEST = 0.01
"""Of a picture; what is smaller is not looked at."""


@dataclass(frozen=True)
class Seen:
    """What of a picture is as it should be: mean colour and texture of its shape, and the ground around it."""

    colour: bool
    texture: bool
    ground: bool

    @property
    def whole(self) -> bool:
        """All of it."""
        return self.colour and self.texture and self.ground


def look(made: np.ndarray, pair: Pair, way: Way) -> Seen:
    """What of ``made`` [H, W, 3] is as in the pair's target."""
    side, wanted = len(made), pair.target(way)
    shape, target = _covered(wanted.shape, side, WITHIN), paint(wanted, side)
    around = ~_covered(wanted.shape, side, BEYOND)
    other = (pair.second if way == "kisekaeichi" else pair.first).shape
    regions = (around & ~_covered(other, side, BEYOND), around & _covered(other, side, WITHIN))
    return Seen(
        colour=_same(made, target, shape),
        texture=texture_seen(made, shape) == wanted.shape.paint.texture,
        ground=all(_same(made, target, region) for region in regions if region.mean() > SMALLEST),
    )


def _covered(shape: Shape, side: int, share: float) -> np.ndarray:
    """``[side, side]`` bool, where a shape would be with this share of its radius."""
    return mask(replace(shape, radius=shape.radius * share), side) > 0.5


def _same(made: np.ndarray, target: np.ndarray, region: np.ndarray) -> bool:
    """Whether the mean colours of a region are near."""
    return apart(made[region].mean(0), target[region].mean(0)) < NEAR


def texture_seen(made: np.ndarray, region: np.ndarray) -> str:
    """The texture of a region ``[H, W]`` bool: that whose fields differ most; plain where none does."""
    pixels, side = made[region].astype(float), len(made)
    names = [name for name in TEXTURES if name != "plain"]
    columns = np.stack([np.ones(len(pixels)), *(fields(name, side)[region] for name in names)], axis=1)
    differences = np.linalg.norm(np.linalg.lstsq(columns, pixels, rcond=None)[0][1:], axis=1)
    best = int(differences.argmax())
    return names[best] if differences[best] > SEEN else "plain"
