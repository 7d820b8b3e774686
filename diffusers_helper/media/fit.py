"""Which size a picture is worked at, and how it is brought to that size without distortion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

LONGEST_COVER = 32
"""How many target lengths of a strip are resized; what lies further out could never be seen after the crop."""


class Fitted(NamedTuple):
    """A picture at the size that is worked at.

    Attributes:
        pixels: uint8 [height, width, 3].
        mask: uint8 [height, width], 255 where it counts and 0 where it does not; None where all of it does.
        shape: (height, width) of its file; None where that is not known any more.
    """

    pixels: np.ndarray
    mask: np.ndarray | None = None
    shape: tuple[int, int] | None = None


def choose_bucket(height: int, width: int, buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) of ``buckets`` whose shape is nearest to the picture's; a tie goes to the later entry."""
    return min(reversed(buckets), key=lambda bucket: abs(height * bucket[1] - width * bucket[0]))


def part_seen(height: int, width: int, target_height: int, target_width: int) -> tuple[float, float]:
    """Which share of a picture's height and width is left after ``resize_and_crop``; one of the two is 1."""
    scale = max(target_width / width, target_height / height)
    return target_height / (height * scale), target_width / (width * scale)


def _middle(length: int, longest: int) -> slice:
    """The central ``longest`` pixels of ``length``, or one more so that the centre stays where it is."""
    cut = max(0, length - longest) // 2
    return slice(cut, length - cut)


def _without_far_ends(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, 3] -> [h, w, 3]: cuts a strip so thin that covering the target would take gigabytes (1 x 5000)."""
    tallest = math.ceil(LONGEST_COVER * pixels.shape[1] * height / width)
    widest = math.ceil(LONGEST_COVER * pixels.shape[0] * width / height)
    return pixels[_middle(pixels.shape[0], tallest), _middle(pixels.shape[1], widest)]


def resize_and_crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [height, width, 3]: scaled with Lanczos to cover the target, then cropped around the centre.
    So is a mask, [H, W].

    Scaled sizes and crop offsets are rounded half to even. A picture of the target size comes back untouched.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    pixels = _without_far_ends(pixels, height, width)
    scale = max(width / pixels.shape[1], height / pixels.shape[0])
    covering = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
    scaled = Image.fromarray(pixels).resize(covering, Image.Resampling.LANCZOS)
    return np.array(scaled.crop((left, top, left + width, top + height)))
