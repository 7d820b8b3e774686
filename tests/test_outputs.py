"""The road to every kind of file: made whole or in two goes it has the same frames, and says what made it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from diffusers_helper.events import Event, Finished, Notice, SectionDone, Started, Step
from diffusers_helper.generate import generate, resume
from diffusers_helper.media.metadata import read_metadata
from diffusers_helper.media.video import probe
from diffusers_helper.preparation import bytes_needed
from diffusers_helper.request import Request
from diffusers_helper.request.output import Frames, Mp4, Webm
from diffusers_helper.words import Texts

from .asking import ask
from .jobs_support import make_picture
from .media.test_formats import frames_of
from .parity.engine import PackEngine

KINDS = {"framepack": "run_i2v", "f1": "run_f1"}
FILES: dict[str, dict[str, Any]] = {
    "mp4 of 10 bits": {"mp4_pixels": "10bit"},
    "mp4 in 4:4:4": {"mp4_pixels": "444", "mp4_crf": 30},
    "webm": {"output": "webm"},
    "webm of av1": {"webm_codec": "av1", "webm_crf": 40},
    "gif": {"output": "gif"},
    "webp": {"output": "webp", "webp_quality": 50},
    "webp without loss": {"webp_lossless": True},
    "frames": {"output": "frames"},
}
FRAMES = 109


class Engine(PackEngine):
    """Its clips are as large as a checkpoint's: what encoders make of less than 16 pixels is left to chance."""

    def decode(self, latents: Tensor) -> Tensor:
        clip = super().decode(latents)
        return clip.repeat_interleave(8, -1).repeat_interleave(8, -2)


def engine(request: Request) -> PackEngine:
    return Engine(KINDS[request.kind.name])


def begun(request: Request, folder: Path) -> Iterator[Event]:
    return generate(request, engine(request), folder / "outputs")


def made(events: Iterator[Event]) -> list[np.ndarray]:
    """The frames of a run that came to its end; the result must be alone with its picture."""
    last = list(events)[-1]
    assert isinstance(last, Finished), last
    result = Path(last.path or "")
    left = sorted(path.name for path in result.parent.iterdir())
    assert left == sorted([result.name, result.with_suffix(".png").name])
    return frames_of(result)


def copied(folder: str, output_dir: Path, other: Path) -> Path:
    """The work folder in a copy of the output folder, as a program that is killed now would leave it."""
    shutil.copytree(output_dir, other)
    return other / Path(folder).relative_to(output_dir)


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) == FRAMES and all(map(np.array_equal, one, other))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", FILES)
def test_broken_off_in_any_section_it_has_the_same_frames(tmp_path: Path, picture: Path, kind: str, file: str) -> None:
    request, broken = ask(picture, kind=kind, **FILES[file]), list[Path]()

    def broken_off_meanwhile() -> Iterator[Event]:
        for event in begun(request, tmp_path / "whole"):
            if isinstance(event, Started):
                folder = event.folder
            elif isinstance(event, SectionDone):
                broken.append(copied(folder, tmp_path / "whole" / "outputs", tmp_path / f"cut{event.section}"))
            yield event

    whole = made(broken_off_meanwhile())
    assert len(broken) == 3
    for cut in broken:
        assert same(made(resume(cut, engine(request))), whole), cut


@dataclass(frozen=True)
class Broken:
    """A run broken off after its last section, and the frames of one that was not."""

    request: Request
    folder: str
    output_dir: Path
    whole: list[np.ndarray]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    home = tmp_path_factory.mktemp("broken")
    request = ask(make_picture(home), output="frames")
    whole = made(begun(request, home / "whole"))
    events = begun(request, home / "broken")
    started = next(events)
    assert isinstance(started, Started)
    for event in events:
        if isinstance(event, SectionDone) and event.section == 3:
            break
    events.close()  # type: ignore[attr-defined]
    return Broken(request, started.folder, home / "broken" / "outputs", whole)


@pytest.mark.parametrize("damage", ["gone", "cut off", "empty of frames"])
@pytest.mark.parametrize("lost", ["master_000.mp4", "master_001.mp4", "master_002.mp4", "segment_001.mp4"])
def test_a_master_that_is_lost_is_made_again(tmp_path: Path, broken: Broken, lost: str, damage: str) -> None:
    folder = copied(broken.folder, broken.output_dir, tmp_path / "outputs")
    file = folder / lost
    content = file.read_bytes()
    file.unlink() if damage == "gone" else file.write_bytes(
        content[: len(content) // 2] if damage == "cut off" else b"x"
    )
    assert same(made(resume(folder, engine(broken.request))), broken.whole)


def test_without_loss_means_the_frames_that_were_made(tmp_path: Path, picture: Path) -> None:
    """All three come from the same masters; the usual MP4 is as near to them as its compression lets it be."""
    frames, webp = (
        made(begun(ask(picture, **FILES[file]), tmp_path / file)) for file in ("frames", "webp without loss")
    )
    assert same(frames, webp)
    shown = made(begun(ask(picture, mp4_crf=1), tmp_path / "mp4"))
    assert np.mean([np.abs(one.astype(int) - other).mean() for one, other in zip(frames, shown, strict=True)]) < 12


def test_the_usual_mp4_keeps_no_masters(tmp_path: Path, picture: Path) -> None:
    for event in begun(ask(picture), tmp_path):
        assert list(tmp_path.rglob("master_*")) == [], event


@pytest.mark.parametrize("file", FILES)
def test_meanwhile_there_is_a_video_to_play(tmp_path: Path, picture: Path, file: str) -> None:
    for event in begun(ask(picture, **FILES[file]), tmp_path):
        if isinstance(event, SectionDone):
            info = probe(Path(event.path))
            assert (info.frames, info.codec, Path(event.path).suffix) == (event.frames, "h264", ".mp4")


@pytest.mark.parametrize("file", FILES)
def test_the_file_says_what_made_it(tmp_path: Path, picture: Path, file: str) -> None:
    request = ask(picture, seconds=1, prompt="a wave 🌊", **FILES[file])
    *_, last = begun(request, tmp_path)
    stored = read_metadata(Path(last.path))["request"]  # type: ignore[attr-defined]
    assert Request.parse({**stored, "picture": request.shown_picture}) == request


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mp4_crf": 0}, "many players show such files black. 1 looks the same"),
        ({"mp4_pixels": "10bit"}, "An MP4 of 10bit is for editing"),
        ({"mp4_pixels": "444", "mp4_crf": 0}, "An MP4 of 444 is for editing"),
        ({"output": "gif"}, "its frames last 3, 4 and 3 of them"),
        ({"output": "webm"}, ""),
        ({"output": "gif", "mp4_crf": 0}, "256 colours"),
        ({}, ""),
    ],
)
def test_what_may_surprise_is_told(tmp_path: Path, picture: Path, fields: dict[str, Any], words: str) -> None:
    told = []
    for event in begun(ask(picture, seconds=1, step_cache="off", **fields), tmp_path):
        if isinstance(event, Step):
            break
        if isinstance(event, Notice):
            told.append(event)
    assert len(told) == bool(words)
    for notice in told:
        assert words in notice.message
        assert notice.said is not None
        assert Texts("ja").said(notice.said) != notice.message


def test_masters_are_counted_in_the_space_that_is_needed(picture: Path) -> None:
    plan = ask(picture).plan()
    usual, finer, webm, frames = (
        bytes_needed(plan, 480, 640, output) for output in (Mp4(), Mp4(pixels="444"), Webm(), Frames())
    )
    assert usual < finer == webm == frames
    assert frames - usual == 2 * 3 * 480 * 640 * plan.frames
