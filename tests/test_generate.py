"""The road: its events, its files, and that a run broken off anywhere ends in the same video."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusers_helper.errors import (
    BrokenNumbers,
    CancelRequested,
    InvalidRequest,
    OutputFailed,
    UnusablePicture,
    UnusableResumeFolder,
)
from diffusers_helper.events import Cancelled, Ended, Event, Failed, Finished, SectionDone, Started, Step
from diffusers_helper.generate import generate, resume, seeded
from diffusers_helper.media.metadata import read_metadata
from diffusers_helper.media.video import probe, read_frames
from diffusers_helper.request import Request

from .asking import ask
from .jobs_support import make_picture
from .parity.engine import PackEngine

KINDS = {"framepack": "run_i2v", "f1": "run_f1"}


def engine(kind: str = "framepack") -> PackEngine:
    return PackEngine(KINDS[kind])


def begin(folder: Path, picture: Path, kind: str) -> Iterator[Event]:
    return generate(
        ask(picture, kind=kind),
        engine(kind),
        folder / "outputs",
        result=folder / "video.mp4",
        latents_result=folder / "latents.safetensors",
    )


def outcome(folder: Path) -> tuple[np.ndarray, Tensor]:
    """Frames of the video and latents of a finished run."""
    return read_frames(folder / "video.mp4"), load_file(folder / "latents.safetensors")["latents"]


def assert_same(actual: tuple[np.ndarray, Tensor], expected: tuple[np.ndarray, Tensor]) -> None:
    assert torch.equal(actual[1], expected[1])
    assert np.array_equal(actual[0], expected[0])


@pytest.fixture(scope="module", params=["framepack", "f1"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, kind: str) -> tuple[np.ndarray, Tensor]:
    folder = tmp_path_factory.mktemp("unbroken")
    assert isinstance(list(begin(folder, make_picture(folder), kind))[-1], Finished)
    return outcome(folder)


def test_a_run_tells_a_whole_story(tmp_path: Path, picture: Path) -> None:
    events = list(generate(ask(picture), engine(), tmp_path))
    assert [event.event for event in events[:2]] == ["started", "plan"]
    assert [(e.section, e.step) for e in events if isinstance(e, Step)] == [(s, n) for s in (1, 2, 3) for n in (1, 2)]
    assert [e.frames for e in events if isinstance(e, SectionDone)] == [33, 69, 109]
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Ended) for event in events) == 1
    assert all(json.loads(event.to_json())["event"] == event.event for event in events)
    assert events[-1].steps_computed + events[-1].steps_reused == 6


def test_what_is_left_behind_is_one_video_and_one_picture(tmp_path: Path, picture: Path) -> None:
    request = ask(picture, prompt="the camera pans left 🎬 يسار")
    last = list(generate(request, engine(), tmp_path / "outputs"))[-1]
    assert last.path is not None
    video = Path(last.path)
    assert sorted(path.suffix for path in (tmp_path / "outputs").rglob("*.*")) == [".mp4", ".png"]
    info = probe(video)
    assert (info.frames, info.fps, info.codec) == (109, 30, "h264")
    for file in (video, video.with_suffix(".png")):
        stored = read_metadata(file)["request"]
        assert Request.parse({**stored, "picture": request.shown_picture}) == request


def test_the_video_so_far_is_playable_after_every_section(tmp_path: Path, picture: Path, kind: str) -> None:
    for event in begin(tmp_path, picture, kind):
        if isinstance(event, SectionDone):
            assert probe(Path(event.path)).frames == event.frames


def test_twice_the_same_seed_is_twice_the_same_video(tmp_path: Path, picture: Path, unbroken: Any, kind: str) -> None:
    list(begin(tmp_path, picture, kind))
    assert_same(outcome(tmp_path), unbroken)


def test_another_seed_is_another_video(tmp_path: Path, picture: Path) -> None:
    latents = []
    for seed in (1, 2):
        file = tmp_path / f"{seed}.safetensors"
        list(generate(ask(picture, seed=seed, seconds=1), engine(), tmp_path, latents_result=file))
        latents.append(load_file(file)["latents"])
    assert not torch.equal(*latents)


def test_broken_off_after_any_event_it_ends_in_the_same_video(
    tmp_path: Path, picture: Path, unbroken: Any, kind: str
) -> None:
    count = len(list(begin(tmp_path, picture, kind)))
    for cut in range(1, count - 1):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        events = begin(folder, picture, kind)
        started, *_ = [next(events) for _ in range(cut)]
        events.close()  # type: ignore[attr-defined]
        assert isinstance(started, Started)
        again = list(resume(Path(started.folder), engine(kind)))
        assert isinstance(again[-1], Finished), (cut, again[-1])
        assert_same(outcome(folder), unbroken)
        assert not Path(started.folder).exists()


@pytest.mark.parametrize("lost", ["segment_000.mp4", "segment_001.mp4", "segment_002.mp4", "video.mp4", "tail.mp4"])
@pytest.mark.parametrize("damaged", [False, True])
def test_lost_video_files_are_made_again(
    tmp_path: Path, picture: Path, unbroken: Any, kind: str, lost: str, damaged: bool
) -> None:
    events = begin(tmp_path, picture, kind)
    started = next(events)
    for event in events:
        if isinstance(event, SectionDone) and event.section == 3:
            break
    events.close()  # type: ignore[attr-defined]
    assert isinstance(started, Started)
    file = Path(started.folder) / lost
    file.write_bytes(b"not a video") if damaged else file.unlink()
    assert isinstance(list(resume(Path(started.folder), engine(kind)))[-1], Finished)
    assert_same(outcome(tmp_path), unbroken)


def test_cancel_keeps_the_finished_sections_as_a_playable_video(tmp_path: Path, picture: Path, kind: str) -> None:
    events = begin(tmp_path, picture, kind)
    for event in events:
        if isinstance(event, Step) and event.section == 2:
            last = events.throw(CancelRequested())  # type: ignore[attr-defined]
            break
    assert isinstance(last, Cancelled)
    assert list(events) == []
    assert last.path is not None
    assert probe(Path(last.path)).frames == last.frames == (33 if kind == "framepack" else 37)
    assert isinstance(list(resume(Path(last.folder), engine(kind)))[-1], Finished)


def failing(error: Exception, at: int) -> PackEngine:
    """An engine whose decoder fails at its n-th call."""
    broken = engine()
    decode, calls = broken.decode, iter(range(100))

    def fail(latents: Tensor) -> Tensor:
        if next(calls) == at:
            raise error
        return decode(latents)

    broken.decode = fail  # type: ignore[method-assign]
    return broken


@pytest.mark.parametrize("error", [OutputFailed("the disk is full"), RuntimeError("CUDA error: unspecified")])
def test_an_error_ends_the_job_with_an_event_and_it_can_go_on(tmp_path: Path, picture: Path, error: Exception) -> None:
    events = list(generate(ask(picture), failing(error, at=1), tmp_path / "o", result=tmp_path / "v.mp4"))
    last = events[-1]
    assert isinstance(last, Failed)
    assert str(error) in last.error
    assert (last.exit_code, last.frames) == (1, 33)
    assert last.folder is not None
    assert isinstance(list(resume(Path(last.folder), engine()))[-1], Finished)
    assert probe(tmp_path / "v.mp4").frames == 109


def test_nan_is_told_and_never_shown(tmp_path: Path, picture: Path) -> None:
    poisoned = engine()
    encode = poisoned.encode

    def encode_nan(*arguments: Any) -> Any:
        conditioning = encode(*arguments)
        conditioning.pictures[0].tokens.mul_(float("nan"))
        return conditioning

    tokens = poisoned._values["in.img_embeds"]
    poisoned._values = {**poisoned._values, "in.img_embeds": tokens.clone()}
    poisoned.encode = encode_nan  # type: ignore[method-assign]
    last = list(generate(ask(picture), poisoned, tmp_path))[-1]
    assert isinstance(last, Failed)
    assert last.exit_code == BrokenNumbers.exit_code
    assert "section 1, step 1: the model produced NaN" in last.error
    assert last.path is None


def test_pixels_that_are_no_numbers_are_told_and_never_shown(tmp_path: Path, picture: Path) -> None:
    """The latents are kept: with another VAE the video ends without a step."""
    poisoned = engine()
    decode = poisoned.decode
    poisoned.decode = lambda latents: decode(latents) * float("nan")  # type: ignore[method-assign]
    last = list(generate(ask(picture), poisoned, tmp_path / "o", result=tmp_path / "v.mp4"))[-1]
    assert isinstance(last, Failed)
    assert last.exit_code == BrokenNumbers.exit_code
    assert "section 1: the VAE produced NaN" in last.error
    assert last.path is None
    events = list(resume(Path(last.folder or ""), engine()))
    assert isinstance(events[-1], Finished)
    assert {event.section for event in events if isinstance(event, Step)} == {2, 3}


@pytest.mark.parametrize("decoding", ["lean", "quality", "reference"])
def test_however_it_is_decoded_a_broken_run_ends_in_the_same_frames(
    tmp_path: Path, picture: Path, kind: str, decoding: str
) -> None:
    made = []
    for name, breaks in (("whole", False), ("broken", True)):
        request = ask(picture, kind=kind, decoding=decoding)
        events = generate(request, engine(kind), tmp_path / name, result=tmp_path / f"{name}.mp4")
        if breaks:
            started, *_ = _until_second_section(events)
            events = resume(Path(started.folder), engine(kind))
        assert isinstance(list(events)[-1], Finished)
        made.append(read_frames(tmp_path / f"{name}.mp4"))
    assert np.array_equal(*made)


def test_a_foreign_folder_is_not_resumed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UnusableResumeFolder, match=r"no job\.json"):
            resume(folder, engine())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("job.json", b""),
        ("job.json", b'{"format": 1}'),
        ("job.json", b"[]"),
        ("job.json", ('"request": {', '"request": ["a"], "was": {')),
        ("job.json", ('"steps": 2', '"steps": 0')),
        ("job.json", ("latents.safetensors", "latents.sh")),
        ("picture.png", b""),
        ("section_000.safetensors", b"\0" * 100),
        ("section_000.safetensors", None),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, picture: Path, file: str, content: Any) -> None:
    latents = tmp_path / "latents.safetensors"
    started, *_ = _until_second_section(generate(ask(picture), engine(), tmp_path, latents_result=latents))
    damaged = Path(started.folder) / file
    damaged.write_bytes(_damage(damaged.read_bytes(), content))
    with pytest.raises(UnusableResumeFolder, match=file.replace(".", r"\.")):
        resume(Path(started.folder), engine())


def _damage(whole: bytes, how: Any) -> bytes:
    """Other content, a replaced text, or for None a flipped bit near the end."""
    if how is None:
        return whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:]
    if isinstance(how, tuple):
        assert how[0].encode() in whole
        return whole.replace(how[0].encode(), how[1].encode())
    return bytes(how)


def test_other_weights_do_not_go_on_with_a_folder(tmp_path: Path, picture: Path) -> None:
    started, *_ = _until_second_section(generate(ask(picture), engine(), tmp_path))
    job = Path(started.folder) / "job.json"
    job.write_text(job.read_text().replace('"fingerprint": "parity"', '"fingerprint": "other"'))
    with pytest.raises(UnusableResumeFolder, match="other weights"):
        resume(Path(started.folder), engine())


def _until_second_section(events: Iterator[Event]) -> list[Any]:
    told = []
    for event in events:
        told.append(event)
        if isinstance(event, Step) and event.section == 2:
            break
    events.close()  # type: ignore[attr-defined]
    return told


def test_nothing_is_written_for_a_request_that_cannot_start(tmp_path: Path, picture: Path) -> None:
    outputs = tmp_path / "outputs"
    with pytest.raises(UnusablePicture):
        generate(ask(tmp_path / "missing.png"), engine(), outputs)
    with pytest.raises(InvalidRequest, match="give one of 64x48"):
        generate(ask(picture, size="640x640"), engine(), outputs)
    assert not outputs.exists()


def test_the_picture_takes_its_own_stream_and_leaves_the_noise_alone() -> None:
    noise = torch.randn(4, generator=seeded(7))
    assert torch.equal(noise, torch.randn(4, generator=torch.Generator().manual_seed(7)))
    assert not torch.equal(noise, torch.randn(4, generator=seeded(7, "start picture")))
