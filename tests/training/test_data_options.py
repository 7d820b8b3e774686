"""musubi's options of a data set: sizes of buckets, excerpts of videos, frames of faster videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.media.video import write_segment
from diffusers_helper.training.batches import Batches
from diffusers_helper.training.dataset import DataSet, Entry, read_config
from diffusers_helper.training.examples import Example, examples_of
from diffusers_helper.training.excerpts import excerpts, kept_frames
from diffusers_helper.training.gathering import Gathered, Listed
from diffusers_helper.training.remarks import remarks
from diffusers_helper.training.sizes import bucket_of, buckets
from diffusers_helper.training.training import Training

from .test_step import Teacher, shades

SIDES = some.integers(64, 1024)


@given(some.tuples(SIDES, SIDES), some.integers(1, 4000), some.integers(1, 4000))
def test_a_bucket_has_sides_of_16_and_no_larger_area(resolution: tuple[int, int], width: int, height: int) -> None:
    made = bucket_of(width, height, resolution, no_upscale=False)
    assert made in buckets(resolution)
    assert made[0] % 16 == made[1] % 16 == 0
    assert min(made) >= 16
    small = bucket_of(width, height, resolution, no_upscale=True)
    if width * height <= resolution[0] * resolution[1]:
        assert small == (max(width // 16 * 16, 16), max(height // 16 * 16, 16))
    else:
        assert small == made


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (128, 128, (128, 128)),
        (200, 100, (160, 96)),
        (100, 200, (80, 192)),
        (10, 1000, (64, 256)),
        (1000, 10, (256, 64)),
    ],
)
def test_the_bucket_is_the_nearest_in_shape(width: int, height: int, expected: tuple[int, int]) -> None:
    """Of about 128 by 128 pixels; width over height is compared, so that of two the wider may be the nearer."""
    assert bucket_of(width, height, (128, 128), no_upscale=False) == expected


def video(**given: Any) -> DataSet:
    return DataSet.model_validate({"video_directory": "-", **given})


EXCERPTS: list[tuple[dict[str, Any], list[tuple[int, int]]]] = [
    ({}, [(0, 40)]),
    ({"target_frames": 13}, [(0, 13)]),
    ({"target_frames": [13, 25, 41]}, [(0, 13), (0, 25)]),
    ({"target_frames": [13], "frame_extraction": "chunk"}, [(0, 13), (13, 26), (26, 39)]),
    ({"target_frames": [13], "frame_extraction": "slide", "frame_stride": 10}, [(0, 13), (10, 23), (20, 33)]),
    (
        {"target_frames": [13], "frame_extraction": "uniform", "frame_sample": 4},
        [(0, 13), (9, 22), (18, 31), (27, 40)],
    ),
    ({"target_frames": [13], "frame_extraction": "uniform"}, [(0, 13)]),
    ({"frame_extraction": "full"}, [(0, 40)]),
    ({"frame_extraction": "full", "max_frames": 31, "target_frames": [13]}, [(0, 31)]),
]
"""Of a video of 40 frames, as musubi's documentation draws them."""


@pytest.mark.parametrize(("given", "expected"), EXCERPTS)
def test_excerpts_of_forty_frames(given: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    assert excerpts(40, video(**given)) == expected


def test_a_faster_video_loses_frames_and_a_slower_one_gets_none() -> None:
    assert kept_frames(8, 60.0) == [0, 2, 4, 6]
    assert kept_frames(9, 45.0) == [0, 2, 3, 5, 6, 8]
    assert kept_frames(4, 24.0) == kept_frames(4, None) == kept_frames(4, 30.0) == [0, 1, 2, 3]
    assert len(kept_frames(599, 59.94)) == 300


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 frames of a shade each, 9 apart."""
    file = tmp_path_factory.mktemp("film") / "video.mp4"
    frames = np.repeat(np.arange(27, dtype=np.uint8)[:, None, None, None] * 9, 3, axis=3)
    write_segment(file, np.broadcast_to(frames, (27, 64, 96, 3)), 30, 0)
    return file


def learnt(film: Path, **given: Any) -> list[list[float]]:
    """The video frames that sections of two latent frames come to."""
    made = examples_of(Entry(film, "x"), video(fp_latent_window_size=2, **given), Teacher(), "f1")
    return [shades(each.target) for each in made]


def test_excerpts_are_learnt_one_after_the_other(film: Path) -> None:
    """The second excerpt begins with frame 9, which is its start picture."""
    chunks = learnt(film, target_frames=[9], frame_extraction="chunk")
    assert chunks == [pytest.approx(each, abs=0.4) for each in ([4, 8], [13, 17], [22, 26])]
    assert learnt(film, target_frames=[9]) == chunks[:1]
    assert learnt(film, frame_extraction="full", max_frames=20) == learnt(film, target_frames=[20])
    assert len(learnt(film)) == 3
    assert learnt(film, source_fps=60.0) == [pytest.approx([8, 16], abs=0.4)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target_frames": [30]}, "27 frames are fewer than target_frames wants"),
        ({"target_frames": [8]}, "8 frames are too few for a section, which takes 9"),
    ],
)
def test_videos_too_short_for_clips_are_named(given: dict[str, Any], words: str, film: Path) -> None:
    with pytest.raises(InvalidRequest, match=rf"video\.mp4: {words}"):
        learnt(film, **given)


def test_pictures_keep_their_shape_in_buckets(tmp_path: Path) -> None:
    """All of an entry has the size of its picture's bucket, also one that the checkpoint does not make."""
    for name, size in (("wide", (200, 100)), ("control", (64, 64)), ("small", (70, 40))):
        Image.new("RGB", size, "teal").save(tmp_path / f"{name}.png")
    bucketed: dict[str, Any] = {"image_directory": "-", "control_directory": "-", "resolution": [128, 128]}
    shapes = {}
    for name, more in (("wide", {}), ("small", {}), ("small", {"bucket_no_upscale": True})):
        data_set = DataSet.model_validate({**bucketed, "enable_bucket": True, **more})
        sizes: list[Any] = []
        entry = Entry(tmp_path / f"{name}.png", "x", (tmp_path / "control.png",))
        examples_of(entry, data_set, Looking(sizes), "f1")
        shapes[name, bool(more)] = sizes
    assert shapes == {
        ("wide", False): [(96, 160), (96, 160)],
        ("small", False): [(96, 160), (96, 160)],
        ("small", True): [(32, 64), (32, 64)],
    }


class Looking(Teacher):
    """Notes the (height, width) of what it is given."""

    def __init__(self, sizes: list[Any]) -> None:
        super().__init__()
        self._sizes = sizes

    def encode(self, request: Any, pictures: Any) -> Any:
        self._sizes += [picture.shape[:2] for picture in pictures]
        return super().encode(request, pictures)

    def encode_video(self, frames: np.ndarray) -> Any:
        self._sizes.append(frames.shape[1:3])
        return super().encode_video(frames)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("enable_bucket=true", "enable_bucket needs a resolution"),
        ('frame_extraction="slide"', "frame_extraction slide takes excerpts; give target_frames"),
        ('frame_extraction="tail"', "frame_extraction"),
        ("target_frames=[]", "target_frames"),
        ("batch_size=0", "batch_size"),
        ("source_fps=0.0", "source_fps"),
    ],
)
def test_what_does_not_fit_together_is_refused(lines: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'[[datasets]]\nvideo_directory="v"\n{lines}', encoding="utf-8")
    with pytest.raises(InvalidRequest, match=words):
        read_config(tmp_path / "c.toml")


NO_EFFECT = {
    "bucket_no_upscale=true": "bucket_no_upscale has no effect without enable_bucket",
    "source_fps=24.0": "source_fps 24 has no effect up to 30",
    "frame_stride=2": "frame_stride has no effect but with frame_extraction slide",
    "frame_sample=2": "frame_sample has no effect but with frame_extraction uniform",
    "max_frames=99": "max_frames has no effect but with frame_extraction full",
    'frame_extraction="full"\ntarget_frames=9': "target_frames has no effect with frame_extraction full",
    "control_resolution=[64, 64]": "control_resolution has no effect here",
}


@pytest.mark.parametrize("lines", NO_EFFECT)
def test_what_of_a_set_has_no_effect_is_told(lines: str, tmp_path: Path) -> None:
    def told(text: str) -> list[str]:
        (tmp_path / "c.toml").write_text(f'[[datasets]]\nvideo_directory="v"\n{text}', encoding="utf-8")
        return list(remarks(Training(read_config(tmp_path / "c.toml"), tmp_path, tmp_path / "a.safetensors")))

    assert told("") == []
    (remark,) = told(lines)
    assert remark.startswith(NO_EFFECT[lines])


def test_a_batch_is_of_one_data_set_and_one_size() -> None:
    """Repeats count as examples; of the second set two are learnt at once."""
    small, large = (Example(torch.zeros(1, 16, 1, side, side), dict) for side in (4, 8))
    found = Gathered()
    twice, paired = DataSet(image_directory="-", num_repeats=2), DataSet(image_directory="-", batch_size=2)
    entry = Entry(Path("-"), "x")
    found.take(Listed(0, twice, entry, held_out=False), [small])
    found.take(Listed(1, paired, entry, held_out=False), [small, large, small])
    found.take(Listed(1, paired, entry, held_out=True), [large])
    assert found.held_out == [large]
    assert found.groups == [(0, (1, 16, 1, 4, 4))] * 2 + [(1, (1, 16, 1, side, side)) for side in (4, 8, 4)]
    assert found.batches == Batches((0, 0, 1, 2, 1), (1, 2, 2))
    assert len(found.batches) == 4


def test_a_file_tells_its_excerpts() -> None:
    told = video(target_frames=[37], frame_extraction="chunk", batch_size=2).told()
    assert json.loads(json.dumps(told))["target_frames"] == [37]
    assert (told["frame_extraction"], told["batch_size"]) == ("chunk", 2)
