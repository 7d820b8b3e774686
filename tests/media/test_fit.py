"""Bucket choice, and the resize that fits a picture to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusers_helper.media.fit import choose_bucket, part_seen, resize_and_crop
from diffusers_helper.models.table import FRAMEPACK_BUCKETS


def test_a_bucket_of_the_same_shape_wins() -> None:
    assert [choose_bucket(2 * h, 2 * w, FRAMEPACK_BUCKETS) for h, w in FRAMEPACK_BUCKETS] == list(FRAMEPACK_BUCKETS)


def test_a_tie_goes_to_the_later_entry() -> None:
    assert choose_bucket(10, 10, [(2, 3), (3, 2)]) == (3, 2)
    assert choose_bucket(10, 10, [(3, 2), (2, 3)]) == (2, 3)
    assert choose_bucket(640, 640, FRAMEPACK_BUCKETS) == (640, 608)


def test_strips_get_the_longest_bucket() -> None:
    assert choose_bucket(1, 5000, FRAMEPACK_BUCKETS) == (416, 960)
    assert choose_bucket(5000, 1, FRAMEPACK_BUCKETS) == (960, 416)


@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 3), st.integers(1, 3))
def test_every_size_comes_out_as_asked(height: int, width: int, rows: int, columns: int) -> None:
    pixels = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    fitted = resize_and_crop(pixels, 32 * rows, 32 * columns)
    assert fitted.shape == (32 * rows, 32 * columns, 3)
    assert fitted.dtype == np.uint8


def test_the_target_size_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    assert np.array_equal(resize_and_crop(pixels, 64, 32), pixels)


def test_one_colour_stays_one_colour() -> None:
    assert (resize_and_crop(np.full((5, 17, 3), (9, 99, 199), np.uint8), 64, 32) == (9, 99, 199)).all()


def test_the_centre_is_kept_and_nothing_is_distorted() -> None:
    rows, columns = np.mgrid[0:100, 0:300]
    disc = ((rows - 49.5) ** 2 + (columns - 149.5) ** 2 < 40**2).astype(np.uint8) * 255
    fitted = resize_and_crop(disc[..., None].repeat(3, 2), 64, 64)[..., 0] > 127
    assert np.array_equal(fitted, fitted[::-1, ::-1])
    assert np.array_equal(fitted, fitted.T)


@pytest.mark.parametrize(("height", "width"), [(1, 5000), (5000, 1), (1, 1)])
def test_strips_and_dots_fit_without_a_giant_in_between(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *rest: sizes.append(size) or resize(self, size, *rest)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert resize_and_crop(pixels, 416, 416).shape == (416, 416, 3)
    assert max(w * h for w, h in sizes) <= 34 * 416 * 416


@pytest.mark.parametrize(("height", "width"), [(100, 500), (500, 100), (64, 96), (96, 64), (64, 64)])
def test_the_part_that_is_seen_is_the_part_that_is_kept(height: int, width: int) -> None:
    """A ramp over the picture: its ends after the crop say where the crop was."""
    seen_height, seen_width = part_seen(height, width, 64, 96)
    assert max(seen_height, seen_width) == pytest.approx(1)
    across = np.broadcast_to(np.linspace(0, 255, width), (height, width)).astype(np.uint8)
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width)).astype(np.uint8)
    for ramp, seen in ((across, seen_width), (down, seen_height)):
        kept = resize_and_crop(np.stack([ramp] * 3, axis=2), 64, 96)
        assert (int(kept.max()) - int(kept.min())) / 255 == pytest.approx(seen, abs=0.06)
