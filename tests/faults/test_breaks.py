"""Ctrl-C, SIGTERM and kill -9 on the real program: finished sections are kept, and it ends in the same frames.

Both kinds of video, here and there; test_generate.py and test_killed.py break off everywhere, on a recorded engine.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusers_helper import cli
from diffusers_helper.media.video import probe, read_frames

from .. import program

Cut = Callable[[dict[str, Any]], bool]
Make = Callable[[Path, str], list[str]]


@pytest.fixture
def arguments(photograph: Path, quick_checkpoint: Path) -> Make:
    """``arguments(folder, kind)``: the flags of a video that goes into ``folder`` with its latents."""

    def make(folder: Path, kind: str) -> list[str]:
        folder.mkdir()
        given = ["--image", str(photograph), "--prompt", "the camera pans left", "--kind", kind, "--seed", "5"]
        given += ["--seconds", "2.4", "--steps", "12"]  # enough that a signal is heard before the last one
        files = ["--out", str(folder / "video.mp4"), "--save-latents", str(folder / "latents.safetensors")]
        return [*given, *files, "--checkpoint", str(quick_checkpoint)]

    return make


def cut_off(process: program.Program, number: signal.Signals, when: Cut) -> tuple[str, list[dict[str, Any]]]:
    """Send a signal at an event; returns the folder to resume and everything that was said."""
    told = []
    for event in program.events(process):
        told.append(event)
        if when(event):
            process.send_signal(number)
            break
    told.extend(program.events(process))
    process.wait(timeout=60)
    return next(event["folder"] for event in told if event["event"] == "started"), told


def assert_resumes_to_the_same(folder: str, mine: Path, given: list[str], home: Path) -> None:
    """As a run with the arguments ``given`` that nothing breaks."""
    done = program.run(home, "generate", "--json", "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert program.parsed(done.stdout)[-1]["event"] == "finished"
    unbroken = home / "unbroken"
    assert cli.main(["generate", *given, "--output-dir", str(home)]) == 0
    latents = [load_file(place / "latents.safetensors")["latents"] for place in (mine, unbroken)]
    assert torch.equal(*latents)
    assert np.array_equal(read_frames(mine / "video.mp4"), read_frames(unbroken / "video.mp4"))
    assert not Path(folder).exists()


def second_section(event: dict[str, Any]) -> bool:
    return event["event"] == "step" and event["section"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_finished(number: signal.Signals, arguments: Make, tmp_path: Path) -> None:
    kind = "framepack" if number == signal.SIGINT else "f1"
    process = program.start(tmp_path, *arguments(tmp_path / "mine", kind))
    folder, told = cut_off(process, number, second_section)
    assert process.returncode == 130
    assert told[-1]["event"] == "cancelled"
    assert probe(Path(told[-1]["path"])).frames == told[-1]["frames"] > 0
    assert not (tmp_path / "mine" / "video.mp4").exists()
    assert_resumes_to_the_same(folder, tmp_path / "mine", arguments(tmp_path / "unbroken", kind), tmp_path)


@pytest.mark.parametrize(("kind", "at"), [("framepack", "preview"), ("f1", "section_done")])
def test_kill_loses_one_section_at_most(kind: str, at: str, arguments: Make, tmp_path: Path) -> None:
    process = program.start(tmp_path, *arguments(tmp_path / "mine", kind))
    folder, told = cut_off(process, signal.SIGKILL, lambda event: event["event"] == at)
    assert process.returncode == -signal.SIGKILL
    saved = sum(line["event"] == "section_done" for line in told)
    assert len(list(Path(folder).glob("section_*.safetensors"))) >= saved
    assert_resumes_to_the_same(folder, tmp_path / "mine", arguments(tmp_path / "unbroken", kind), tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_acts_at_once(number: signal.Signals, arguments: Make, tmp_path: Path) -> None:
    process = program.start(tmp_path, *arguments(tmp_path / "mine", "f1"))
    for event in program.events(process):
        if event["event"] == "started":
            process.send_signal(number)
            time.sleep(0.2)
            process.send_signal(number)
    process.wait(timeout=60)
    assert process.returncode == 130
