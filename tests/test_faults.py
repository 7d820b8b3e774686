"""Fault points: off they do nothing, on they strike once where asked, and a bad wish is refused in words."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image

from diffusers_helper import faults
from diffusers_helper.errors import InvalidSetting
from diffusers_helper.events import Failed, Finished, SectionDone
from diffusers_helper.generate import generate, resume
from diffusers_helper.media.video import probe
from diffusers_helper.request import Request
from diffusers_helper.settings import resolve

from .conftest import ROOT
from .parity.engine import PackEngine

PASSED_BY_THE_ROAD = ("encode", "step", "decode", "checkpoint", "mux")


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    faults.armed.cache_clear()


@pytest.fixture
def request_of_two_sections(tmp_path: Path) -> Request:
    picture = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "teal").save(picture)
    return Request.parse({"picture": str(picture), "seconds": 2.4, "steps": 2})


def test_off_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    assert [faults.passing(point) for point in get_args(faults.Point)] == [None] * len(get_args(faults.Point))
    assert faults.armed.cache_info().misses == 0


def test_a_fault_strikes_once_at_its_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "step=nan@3, step=nan@5,decode=nan")
    assert [faults.passing("step") for _ in range(6)] == [None, None, "nan", None, "nan", None]
    assert [faults.passing("decode") for _ in range(2)] == ["nan", None]
    assert faults.passing("encode") is None


def test_passings_are_counted_over_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "worker=nan@800")
    struck: list[Any] = []
    threads = [
        threading.Thread(target=lambda: struck.extend(faults.passing("worker") for _ in range(100))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert struck.count("nan") == 1


@pytest.mark.parametrize(
    ("action", "error"), [("raise", RuntimeError), ("disk_full", OSError), ("out_of_memory", torch.OutOfMemoryError)]
)
def test_what_is_raised(action: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, f"upload={action}")
    with pytest.raises(error) as raised:
        faults.passing("upload")
    if isinstance(raised.value, OSError):
        assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(("action", "end"), [("kill", -9), ("hang", "still there")])
def test_kill_and_hang(action: str, end: int | str) -> None:
    program = "from diffusers_helper import faults; faults.passing('mux'); print('went on')"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, env={faults.VARIABLE: f"mux={action}"}
    )
    try:
        said = process.communicate(timeout=5 if action == "kill" else 1)[0]
        assert (process.returncode, said) == (end, b"")
    except subprocess.TimeoutExpired:
        assert end == "still there"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "text",
    ["decode", "decode=", "decode=burn", "moon=kill", "decode=kill@0", "decode=kill@x", "decode=kill;mux=kill", ","],
)
def test_a_bad_value_is_refused_in_words(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, text)
    with pytest.raises(ValueError, match="points are upload, worker, encode"):
        faults.passing("step")
    with pytest.raises(InvalidSetting, match=r"FRAMEPACK_FAULTS=.*actions are kill, raise"):
        resolve({}, {faults.VARIABLE: text}, tmp_path / "none.json")


@pytest.mark.parametrize("point", PASSED_BY_THE_ROAD)
def test_the_road_passes_every_point(
    point: str, request_of_two_sections: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(faults.VARIABLE, f"{point}=raise")
    last = list(generate(request_of_two_sections, PackEngine("run_i2v"), tmp_path / "outputs"))[-1]
    assert isinstance(last, Failed)
    assert last.error == f"RuntimeError: the fault asked for at {point}"
    assert isinstance(list(resume(Path(last.folder or ""), PackEngine("run_i2v")))[-1], Finished)


@pytest.mark.parametrize(
    ("fault", "frames_kept", "words"),
    [
        pytest.param("step=nan@3", 33, "section 2, step 1: the model produced NaN", id="broken numbers"),
        pytest.param("encode=out_of_memory", 0, "ran out of memory; close other programs", id="memory, encode"),
        pytest.param("step=out_of_memory@4", 33, "ran out of memory; close other programs", id="memory, sampling"),
        pytest.param("decode=out_of_memory@2", 33, "ran out of memory; close other programs", id="memory, decode"),
        pytest.param("checkpoint=disk_full@2", 33, "the disk is full", id="disk, checkpoint"),
        pytest.param("mux=disk_full@2", 33, "the disk is full", id="disk, the video so far"),
        pytest.param("mux=disk_full@3", 73, "the disk is full", id="disk, the finished video"),
    ],
)
def test_what_was_finished_stays(
    fault: str,
    frames_kept: int,
    words: str,
    request_of_two_sections: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault costs the section under way, and with it back in order the job goes on to its end."""
    monkeypatch.setenv(faults.VARIABLE, fault)
    last = list(generate(request_of_two_sections, PackEngine("run_i2v"), tmp_path, result=tmp_path / "v.mp4"))[-1]
    assert isinstance(last, Failed)
    assert words in last.error
    assert last.frames == frames_kept
    assert not frames_kept or probe(Path(last.path or "")).frames == frames_kept
    assert list(tmp_path.rglob(".*.part*")) == []
    again = list(resume(Path(last.folder or ""), PackEngine("run_i2v")))
    assert isinstance(again[-1], Finished)
    assert sum(isinstance(event, SectionDone) for event in again) <= 2
    assert probe(tmp_path / "v.mp4").frames == 73
