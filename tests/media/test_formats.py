"""Every kind of file: as many frames as went in, at their times, as alike as stated, and with what made them."""

from __future__ import annotations

import io
import os
import sys
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from diffusers_helper.errors import OutputFailed, UnusableInput
from diffusers_helper.media.formats import write_output
from diffusers_helper.media.metadata import MAX_TEXT_CHARACTERS, as_comment, read_metadata
from diffusers_helper.media.segments import Footage
from diffusers_helper.media.stills import last_still, middle_still
from diffusers_helper.media.video import MASTER, last_frame, middle_frame, probe, write_video
from diffusers_helper.request.output import OUTPUTS, Frames, Gif, Mp4, Output, Video, Webm, Webp, output_by_suffix

FPS = 30
COUNT = 13
SIZE = (48, 64)
RECIPE: dict[str, Any] = {"prompt": 'a wave 🌊 "breaks" \\ <b>\nslowly \ud800', "seed": 2**63 - 1}

MADE: dict[str, tuple[Output, float, str, str]] = {
    "mp4, 10 bit": (Mp4(pixels="10bit"), 34, "h264", "yuv420p10le"),
    "mp4, 4:4:4": (Mp4(pixels="444"), 38, "h264", "yuv444p"),
    "webm, vp9": (Webm(), 34, "vp9", "yuv420p"),
    "webm, vp9 in 4:4:4": (Webm(codec="vp9_444"), 38, "vp9", "yuv444p"),
    "webm, av1": (Webm(codec="av1"), 34, "libdav1d", "yuv420p"),
    "webm, av1 in 10 bit": (Webm(codec="av1_10bit"), 34, "libdav1d", "yuv420p10le"),
    "gif": (Gif(), 24, "gif", ""),
    "webp": (Webp(), 34, "", ""),
    "webp, lossless": (Webp(lossless=True), np.inf, "", ""),
    "frames": (Frames(), np.inf, "", ""),
}
"""Output, the least PSNR in dB of its frames against those that went in, codec and pixels."""
FILMS = {name: made for name, made in MADE.items() if made[0].shown == "film"}
of_every_kind = pytest.mark.parametrize("name", MADE)


def clip(count: int = COUNT) -> list[np.ndarray]:
    """Soft shapes in colours under a camera that moves."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    canvas = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC))
    height, width = SIZE
    return [np.ascontiguousarray(canvas[at : at + height, 2 * at : 2 * at + width]) for at in range(count)]


def written(folder: Path, name: str, frames: Any = None) -> Path:
    output = MADE[name][0]
    path = folder / f"made{output.suffix}"
    write_output(path, frames or clip(), FPS, output, as_comment(RECIPE))
    return path


def films_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def pictures(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Of a picture that moves each frame, and for how many milliseconds it is shown."""
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pixels = np.array(image.convert("RGB"))
            yield pixels, image.info["duration"]


def frames_of(path: Path) -> list[np.ndarray]:
    if path.suffix in (".mp4", ".webm"):
        return films_frames(path)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return [np.array(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()[1:]]
    return [pixels for pixels, _ in pictures(path)]


def priorities() -> set[int]:
    """How the system schedules the threads of this process."""
    return {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}


def psnr(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    error = np.mean([(this.astype(float) - that) ** 2 for this, that in zip(one, other, strict=True)])
    return float(10 * np.log10(255**2 / error)) if error else np.inf


@of_every_kind
def test_every_frame_is_there_and_as_alike_as_stated(tmp_path: Path, name: str) -> None:
    shown = frames_of(written(tmp_path, name))
    assert [frame.shape for frame in shown] == [(*SIZE, 3)] * COUNT
    assert psnr(shown, clip()) >= MADE[name][1]


@pytest.mark.parametrize("name", FILMS)
def test_a_film_has_the_codec_the_pixels_and_the_rate(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    _, _, codec, pixels = MADE[name]
    info = probe(path)
    assert (info.frames, info.fps, info.width, info.height, info.codec) == (COUNT, FPS, *SIZE[::-1], codec)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == pixels
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)
        times = [frame.time for frame in container.decode(stream)]
    assert times == pytest.approx([number / FPS for number in range(COUNT)], abs=0.001)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have such priorities on Linux alone")
def test_no_encoder_computes_before_other_programs(tmp_path: Path) -> None:
    """Where root runs it, the one of AV1 would make real-time threads of its own and of the one that opens it."""
    met: set[int] = set()

    def watched() -> Iterator[np.ndarray]:
        for frame in clip(3):
            yield frame
            met.update(priorities())

    written(tmp_path, "webm, av1", watched())
    assert met | priorities() == {os.sched_getscheduler(os.getppid())}


@pytest.mark.parametrize("count", [1, 3, 4, COUNT])
@pytest.mark.parametrize(("name", "unit"), [("gif", 10), ("webp", 1)])
def test_a_picture_that_moves_lasts_as_long_as_the_video(tmp_path: Path, name: str, unit: int, count: int) -> None:
    lasts = [milliseconds for _, milliseconds in pictures(written(tmp_path, name, clip(count)))]
    exact = 1000 / FPS
    assert sum(lasts) == round(count * exact / unit) * unit
    assert set(lasts) <= {exact // unit * unit, (exact // unit + 1) * unit}
    if name == "gif":
        assert lasts[:3] == [30, 40, 30][:count]


@pytest.mark.parametrize("name", ["gif", "webp"])
def test_a_picture_that_moves_does_so_without_an_end(tmp_path: Path, name: str) -> None:
    with Image.open(written(tmp_path, name)) as image:
        assert image.info["loop"] == 0


@pytest.mark.parametrize("name", ["gif", "webp"])
def test_frames_that_stay_the_same_are_all_there(tmp_path: Path, name: str) -> None:
    still = [clip(1)[0]] * 4
    assert len(list(pictures(written(tmp_path, name, still)))) == 4


@of_every_kind
def test_what_made_it_is_read_back(tmp_path: Path, name: str) -> None:
    assert read_metadata(written(tmp_path, name)) == RECIPE


@pytest.mark.parametrize("length", [0, 1, 254, 255, 256, 100_000])
@of_every_kind
def test_a_text_of_any_length_is_read_back(tmp_path: Path, name: str, length: int) -> None:
    output = MADE[name][0]
    path = tmp_path / f"made{output.suffix}"
    write_output(path, clip(1), FPS, output, as_comment({"prompt": "x" * length}))
    assert read_metadata(path) == {"prompt": "x" * length}


@of_every_kind
def test_a_text_that_no_settings_have_is_refused(tmp_path: Path, name: str) -> None:
    output = MADE[name][0]
    path = tmp_path / f"made{output.suffix}"
    write_output(path, clip(1), FPS, output, as_comment({"prompt": "x" * 3 * MAX_TEXT_CHARACTERS}))
    with pytest.raises(UnusableInput, match=r"made\."):
        read_metadata(path)


@of_every_kind
def test_half_of_a_file_does_no_harm(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    content = path.read_bytes()
    for share in (0.01, 0.1, 0.5, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        with suppress(UnusableInput):
            assert read_metadata(path) == RECIPE


def test_other_programs_see_what_made_it(tmp_path: Path) -> None:
    with Image.open(written(tmp_path, "webp")) as image:
        assert image.getexif()[0x010E] == as_comment(RECIPE)
    with Image.open(written(tmp_path, "gif")) as image:
        assert image.info["comment"].decode() == as_comment(RECIPE)
    with zipfile.ZipFile(written(tmp_path, "frames")) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["recipe.json", *(f"frame_{number:05}.png" for number in range(COUNT))]
        assert archive.read("recipe.json").decode() == as_comment(RECIPE)
    with av.open(str(written(tmp_path, "webm, vp9"))) as container:
        assert as_comment(RECIPE) in container.metadata.values()


def test_an_mp4_can_be_played_while_it_loads(tmp_path: Path) -> None:
    data = written(tmp_path, "mp4, 10 bit").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@of_every_kind
def test_the_same_frames_are_the_same_file(tmp_path: Path, name: str) -> None:
    assert same(frames_of(written(tmp_path, name)), frames_of(written(tmp_path, name)))


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


class Counted:
    """A long clip, made frame by frame, that counts how many of its frames are held at once."""

    def __init__(self, count: int) -> None:
        self.count, self.alive, self.most = count, 0, 0
        self.canvas = np.tile(clip(1)[0], (1, 2, 1))

    def __iter__(self) -> Iterator[np.ndarray]:
        for number in range(self.count):
            at = number % SIZE[1]
            pixels = self.canvas[:, at : at + SIZE[1]].copy()
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(pixels, self.gone)
            yield pixels
            del pixels

    def gone(self) -> None:
        self.alive -= 1


@of_every_kind
def test_of_a_long_video_few_frames_are_held_at_once(tmp_path: Path, name: str) -> None:
    frames = Counted(400)
    written(tmp_path, name, frames)
    assert frames.most <= 3
    assert frames.alive == 0


def test_masters_keep_every_bit_and_are_read_one_frame_at_a_time(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (9, *SIZE, 3), dtype=np.uint8)
    files = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for file, frames in zip(files, (noise[:4], noise[4:]), strict=True):
        write_video(file, frames, FPS, MASTER)
    footage = Footage(files)
    assert np.array_equal(np.stack(list(footage)), noise)
    assert np.array_equal(np.stack(list(footage)), noise), "and again"


@of_every_kind
def test_its_stills_are_frames_of_it(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    frames = frames_of(path)
    assert np.array_equal(last_still(path), frames[-1])
    middle = middle_still(path)
    assert any(np.array_equal(middle, frame) for frame in frames[COUNT // 2 - 1 : COUNT // 2 + 2])
    if name in FILMS:
        assert np.array_equal(last_frame(path), frames[-1])
        assert np.array_equal(middle_frame(path), middle)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".zip", ".png", ".webm", ".mp4"])
def test_a_damaged_result_has_no_still_and_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"GIF89a" if suffix == ".gif" else b"rubbish")
    for still in (last_still, middle_still):
        with pytest.raises(UnusableInput, match=f"broken{suffix}"):
            still(path)


@of_every_kind
def test_a_full_disk_leaves_no_file(small_disk: Path, name: str) -> None:
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(12)]
    with pytest.raises(OutputFailed, match="the disk is full"):
        write_output(small_disk / f"a{MADE[name][0].suffix}", frames, FPS, MADE[name][0], "x" * 900)
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("frames", [[], [np.zeros((31, 32, 3), np.uint8)], [np.zeros((32, 32), np.uint8)]])
@of_every_kind
def test_frames_that_cannot_be_encoded_are_named(tmp_path: Path, name: str, frames: list[np.ndarray]) -> None:
    output = MADE[name][0]
    if isinstance(output, Frames):
        return
    with pytest.raises(ValueError, match="must be"):
        write_output(tmp_path / f"a{output.suffix}", frames, FPS, output, "")
    assert not list(tmp_path.iterdir())


def test_every_video_is_tried_here() -> None:
    written_at_the_end = {type(output) for output, *_ in MADE.values()}
    assert written_at_the_end == {made for made in OUTPUTS.values() if made.result == "video"}
    joined = [made.name for made in OUTPUTS.values() if isinstance(made(), Video) and made().is_joined]  # type: ignore[attr-defined]
    assert joined == ["mp4"]


def test_a_suffix_names_one_kind_of_file() -> None:
    assert len({made.suffix for made in OUTPUTS.values()}) == len(OUTPUTS)
    assert all(output_by_suffix(made.suffix.upper()) is made for made in OUTPUTS.values())
    assert output_by_suffix(".avi") is None


def test_a_gif_counts_hundredths_exactly_where_they_divide(tmp_path: Path) -> None:
    write_output(tmp_path / "a.gif", clip(4), 25, Gif(), "")
    assert [milliseconds for _, milliseconds in pictures(tmp_path / "a.gif")] == [40] * 4
    assert Fraction(100, 25) == 4
