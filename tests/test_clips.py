"""Clips made while the next section is sampled: the same frames, told in order, and nothing left over at any end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusers_helper.errors import CancelRequested
from diffusers_helper.events import Cancelled, Decoding, Event, Failed, Finished, SectionDone, Started, Step
from diffusers_helper.generate import generate, resume
from diffusers_helper.media.video import probe, read_frames
from diffusers_helper.memory.costs import Beside

from .asking import ask
from .jobs_support import make_picture
from .parity.engine import PackEngine

PATIENCE_SECONDS = 60


class BesideEngine(PackEngine):
    """One that makes clips beside the sampling; ``hold`` keeps the thread that decodes until it is set.

    Attributes:
        alone: how often it was told to decode alone.
        decoded_in: the names of the threads that decoded.
    """

    def __init__(self, name: str, beside: Beside = "decoding") -> None:
        super().__init__(name)
        self.beside: Beside = beside
        self.hold = threading.Event()
        self.hold.set()
        self.alone = 0
        self.decoded_in: list[str] = []

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded_in.append(threading.current_thread().name)
        return super().decode(latents)

    def decode_beside(self, latents: Tensor) -> Callable[[], Tensor]:
        def decode() -> Tensor:
            assert self.hold.wait(PATIENCE_SECONDS)
            return self.decode(latents)

        return decode

    def decode_alone(self) -> None:
        self.alone += 1
        self.beside = "writing"


@pytest.fixture(scope="module", params=["framepack", "f1"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("framepack-clip")] == []


def engine(kind: str = "framepack", beside: Beside = "decoding") -> BesideEngine:
    return BesideEngine({"framepack": "run_i2v", "f1": "run_f1"}[kind], beside)


def run_of(kind: str, made: PackEngine, picture: Path, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    return generate(ask(picture, kind=kind), made, folder / "outputs", result=folder / "video.mp4")


def finished(events: Iterator[Event], folder: Path) -> np.ndarray:
    """The frames of a run that came to its end."""
    *_, last = events
    assert isinstance(last, Finished), last
    return read_frames(folder / "video.mp4")


@pytest.fixture(scope="module")
def plain(kind: str, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The frames of a run that makes one thing after the other."""
    folder = tmp_path_factory.mktemp("plain")
    return finished(run_of(kind, engine(kind, "nothing"), make_picture(folder), folder), folder)


@pytest.mark.parametrize("beside", get_args(Beside))
def test_the_frames_are_the_same_and_each_section_is_told_once(
    beside: Beside, picture: Path, kind: str, plain: np.ndarray, tmp_path: Path
) -> None:
    made = engine(kind, beside)
    events = list(run_of(kind, made, picture, tmp_path))
    assert np.array_equal(finished(iter(events), tmp_path), plain)
    told = [(type(event).__name__, event.section) for event in events if isinstance(event, Decoding | SectionDone)]
    assert told == [(name, n) for n in (1, 2, 3) for name in ("Decoding", "SectionDone")]
    in_thread = ["framepack-clip" in name for name in made.decoded_in]
    assert in_thread == [beside == "decoding"] * 3


def test_a_clip_is_made_while_the_next_section_is_sampled(
    picture: Path, kind: str, plain: np.ndarray, tmp_path: Path
) -> None:
    """It is let go at the first step of that, and told at the second at the latest."""
    made, story = engine(kind), []
    made.hold.clear()
    for event in run_of(kind, made, picture, tmp_path):
        match event:
            case Step(section=section, step=1) if section > 1:
                assert not any(isinstance(each, SectionDone) and each.section == section - 1 for each in story)
                made.hold.set()
            case Decoding(section=section):
                made.hold.clear()
                assert section == 1 or any(isinstance(e, SectionDone) and e.section == section - 1 for e in story)
                if section == event.sections:
                    made.hold.set()
        story.append(event)
    assert np.array_equal(read_frames(tmp_path / "video.mp4"), plain)
    assert [event.frames for event in story if isinstance(event, SectionDone)][-1] == 109


def test_broken_off_after_any_event_it_ends_in_the_same_video(
    picture: Path, kind: str, plain: np.ndarray, tmp_path: Path
) -> None:
    count = len(list(run_of(kind, engine(kind), picture, tmp_path)))
    for cut in range(1, count - 1):
        folder = tmp_path / f"cut{cut}"
        events = run_of(kind, engine(kind), picture, folder)
        started, *_ = [next(events) for _ in range(cut)]
        events.close()
        assert isinstance(started, Started)
        again = resume(Path(started.folder), engine(kind, "nothing" if cut % 2 else "decoding"))
        assert np.array_equal(finished(again, folder), plain), cut


def test_cancel_waits_for_the_clip_under_way(picture: Path, kind: str, tmp_path: Path) -> None:
    made = engine(kind)
    made.hold.clear()
    events = run_of(kind, made, picture, tmp_path)
    next(event for event in events if isinstance(event, Step) and event.section == 2)
    threading.Timer(0.05, made.hold.set).start()
    last = events.throw(CancelRequested())
    assert isinstance(last, Cancelled)
    assert last.path is not None
    assert probe(Path(last.path)).frames == last.frames == (33 if kind == "framepack" else 37)


@pytest.mark.parametrize("sampling_too", [False, True])
def test_where_memory_runs_out_the_clip_is_made_alone(
    sampling_too: bool, picture: Path, kind: str, plain: np.ndarray, tmp_path: Path
) -> None:
    """Also where sampling has run out of it at the same time, and ended what was beside it."""
    made = engine(kind)
    decode_beside = made.decode_beside

    def short(latents: Tensor) -> Callable[[], Tensor]:
        decode_beside(latents)

        def decode() -> Tensor:
            made.beside = "writing" if sampling_too else "decoding"
            raise torch.OutOfMemoryError("CUDA out of memory")

        return decode

    made.decode_beside = short  # type: ignore[method-assign]
    assert np.array_equal(finished(run_of(kind, made, picture, tmp_path), tmp_path), plain)
    assert made.alone == 1
    assert made.decoded_in == ["MainThread"] * 3


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (lambda clip: clip * float("nan"), "section 1: the VAE produced NaN"),
        (lambda clip: clip[0], ""),
    ],
    ids=["no numbers", "no clip"],
)
def test_a_clip_that_fails_beside_ends_the_run_which_can_go_on(
    spoilt: Callable[[Tensor], Tensor], words: str, picture: Path, kind: str, plain: np.ndarray, tmp_path: Path
) -> None:
    made = engine(kind)
    decode = made.decode
    made.decode = lambda latents: spoilt(decode(latents))  # type: ignore[method-assign]
    *_, last = run_of(kind, made, picture, tmp_path)
    assert isinstance(last, Failed)
    assert words in last.error
    assert last.path is None
    assert np.array_equal(finished(resume(Path(last.folder or ""), engine(kind)), tmp_path), plain)


def test_a_clip_that_fails_after_a_cancel_is_made_when_the_run_goes_on(
    picture: Path, kind: str, plain: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = engine(kind)
    made.hold.clear()
    events = run_of(kind, made, picture, tmp_path)
    next(event for event in events if isinstance(event, Step) and event.section == 2)
    made.decode = lambda latents: latents[0]  # type: ignore[method-assign]
    made.hold.set()
    last = events.throw(CancelRequested())
    assert isinstance(last, Cancelled)
    assert "under way" in caplog.text
    assert np.array_equal(finished(resume(Path(last.folder), engine(kind)), tmp_path), plain)
