"""PSNR and SSIM of two videos: as the published formulas give them, and refused where there is nothing to compare."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest

from diffusers_helper.errors import UnusableInput
from diffusers_helper.media.likeness import likeness
from diffusers_helper.media.video import write_segment


def video(path: Path, frames: int = 7, height: int = 64, noise: float = 0.0) -> Path:
    """A moving ramp, with noise over it."""
    ramp = np.linspace(40, 200, 96)[None, None, :, None] + 4 * np.arange(frames)[:, None, None, None]
    drawn = np.random.default_rng(7).normal(0, noise, (frames, height, 96, 3)) if noise else 0.0
    write_segment(path, np.broadcast_to(ramp + drawn, (frames, height, 96, 3)).clip(0, 255).astype(np.uint8), 30, 16)
    return path


def mean_square_error(one: Path, other: Path) -> float:
    """Over all bytes of all frames in yuv420p."""

    def planes(path: Path) -> np.ndarray:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]).astype(float)

    return float(((planes(one) - planes(other)) ** 2).mean())


def test_psnr_is_that_of_the_published_formula(tmp_path: Path) -> None:
    one, other = video(tmp_path / "a.mp4"), video(tmp_path / "b.mp4", noise=9)
    found = likeness(one, other)
    assert found.psnr == pytest.approx(10 * math.log10(255**2 / mean_square_error(one, other)), abs=0.01)
    assert 0.1 < found.ssim < 0.95


def test_the_same_video_is_the_same(tmp_path: Path) -> None:
    one = video(tmp_path / "a.mp4")
    found = likeness(one, one)
    assert found.psnr == math.inf
    assert found.ssim == pytest.approx(1.0)


def test_more_noise_is_less_alike_by_both(tmp_path: Path) -> None:
    one = video(tmp_path / "a.mp4")
    near, far = (likeness(one, video(tmp_path / f"{noise}.mp4", noise=noise)) for noise in (4, 20))
    assert near.psnr > far.psnr
    assert near.ssim > far.ssim


def test_all_frames_count(tmp_path: Path) -> None:
    """Only the last ones differ."""
    one, other = video(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    with av.open(str(one)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    frames[-1:] = 0
    write_segment(other, frames, 30, 16)
    assert likeness(one, other).psnr < 25


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"height": 96}, "different sizes, 96 × 64 and 96 × 96"), ({"frames": 9}, "different lengths, 7 and 9 frames")],
)
def test_videos_of_another_shape_are_not_compared(tmp_path: Path, fields: dict[str, int], why: str) -> None:
    with pytest.raises(UnusableInput, match=why):
        likeness(video(tmp_path / "a.mp4"), video(tmp_path / "b.mp4", **fields))  # type: ignore[arg-type]


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "b.mp4"
    broken.write_bytes(b"no video")
    for one, other in ((broken, video(tmp_path / "a.mp4")), (tmp_path / "a.mp4", tmp_path / "gone.mp4")):
        with pytest.raises(UnusableInput):
            likeness(one, other)
