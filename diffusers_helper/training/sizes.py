"""Which size a picture is learnt at where its data set has buckets: one of about the area of ``resolution``.

The rule is musubi's: sides in steps of 16, the shape that is nearest in width over height.
"""

from __future__ import annotations

import math

STEP = 16
"""Pixels; a token of the transformer is so wide."""
Size = tuple[int, int]


def buckets(resolution: Size) -> list[Size]:
    """All (width, height) of about the area of ``resolution``, from half as wide as it is tall to twice, and beyond."""
    area = resolution[0] * resolution[1]
    side = math.isqrt(area)
    short = range(max(_down(side // 2), STEP), side + STEP, STEP)
    pairs = {(width, max(_down(area // width), STEP)) for width in short}
    return sorted(pairs | {(height, width) for width, height in pairs})


def bucket_of(width: int, height: int, resolution: Size, no_upscale: bool) -> Size:
    """(width, height) that a picture is cropped to.

    Args:
        no_upscale: a picture of a smaller area than ``resolution`` keeps its size, but for what is no whole step.
    """
    if no_upscale and width * height <= resolution[0] * resolution[1]:
        return max(_down(width), STEP), max(_down(height), STEP)
    return min(buckets(resolution), key=lambda size: abs(size[0] / size[1] - width / height))


def _down(side: int) -> int:
    return side - side % STEP
