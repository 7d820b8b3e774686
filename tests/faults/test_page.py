"""The page as a process of its own: what signals and kill -9 leave of the job under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from diffusers_helper import faults
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.media.video import probe, read_frames
from diffusers_helper.request import Request

from ..jobs_support import make_request, wait_until
from ..program import PAGE, Program

START_SECONDS, JOB_SECONDS, STOP_SECONDS = 60.0, 120.0, 60.0
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@dataclass
class PageProcess:
    """``demo_gradio.py`` under way."""

    process: Program | subprocess.Popen[str]
    address: str

    def get(self, path: str) -> httpx.Response:
        with httpx.Client(base_url=self.address, trust_env=False, timeout=10) as client:
            return client.get(path)

    def shown(self) -> str:
        """All that the page shows of jobs and warnings."""
        answer: dict[str, Any] = self.get("live?language=en").json()
        return "".join(answer["fragments"].values())

    def ends(self, seconds: float = STOP_SECONDS) -> int:
        return self.process.wait(timeout=seconds)


Start = Callable[..., PageProcess]


@pytest.fixture
def start(tmp_path: Path, quick_checkpoint: Path) -> Iterator[Start]:
    """``start(outputs, fault)`` -> the page on that folder, once it says where it is.

    ``imported``: in a process that has imported what the page and its jobs need.
    """
    started: list[Program | subprocess.Popen[str]] = []

    def begin(outputs: Path, fault: str = "", imported: bool = True) -> PageProcess:
        flags = ("--output-dir", str(outputs), "--checkpoint", str(quick_checkpoint), "--offline")
        variables, command = {**os.environ, faults.VARIABLE: fault}, [sys.executable, PAGE, *flags]
        if imported:
            started.append(Program(PAGE, flags, tmp_path, variables))
        else:
            started.append(subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, text=True))
        process = started[-1]
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("FramePack is at "), said
        return PageProcess(process, said.split()[-1])

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def request_(photograph: Path) -> Request:
    return make_request(photograph, prompt="the camera pans left", kind="f1")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def queued(outputs: Path, request: Request) -> int:
    """A job that a page will find when it starts."""
    queue = JobQueue(outputs)
    job = queue.add(request)
    queue.close()
    return job.id


def left(outputs: Path, job_id: int) -> Job:
    """The job as a stopped page left it."""
    queue = JobQueue(outputs)
    job = queue.job(job_id)
    queue.close()
    return job


def until_sampling_the_second_section(outputs: Path) -> None:
    def begun() -> bool:
        sections = list(outputs.glob("2*/*/section_000.safetensors"))
        return any((found.parent / "video.mp4").exists() for found in sections)

    wait_until(begun, "the second section", JOB_SECONDS)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_page_at_rest_ends_at_once(number: signal.Signals, outputs: Path, start: Start) -> None:
    page = start(outputs)
    assert page.get("healthz").text == "ok"
    page.process.send_signal(number)
    assert page.ends(10) == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_page_between_two_steps_and_the_job_is_kept(
    number: signal.Signals, outputs: Path, request_: Request, start: Start
) -> None:
    job_id = queued(outputs, request_.model_copy(update={"steps": 40}))
    page = start(outputs)
    until_sampling_the_second_section(outputs)
    page.process.send_signal(number)
    assert page.ends() == 0
    job = left(outputs, job_id)
    assert (job.state, job.can_go_on, job.progress.sections_done) == ("interrupted", True, 1)
    assert probe(Path(job.progress.video or "")).frames == job.progress.frames > 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_a_page_whose_job_hangs(
    number: signal.Signals, outputs: Path, request_: Request, start: Start
) -> None:
    job_id = queued(outputs, request_)
    page = start(outputs, "worker=hang")
    wait_until(lambda: page.get("live?language=en").json()["running"], "the job to begin")
    page.process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        page.ends(1)
    assert page.get("healthz").text == "ok"
    page.process.send_signal(number)
    assert page.ends(10) == 130
    assert left(outputs, job_id).state == "interrupted"


def test_a_killed_page_goes_on_to_the_same_frames(outputs: Path, request_: Request, start: Start) -> None:
    killed_id = queued(outputs, request_)
    page = start(outputs, "decode=kill@2")
    assert page.ends(JOB_SECONDS) == -signal.SIGKILL

    queue = JobQueue(outputs)
    assert queue.job(killed_id).state == "interrupted"
    queue.go_on(killed_id)
    unbroken_id = queue.add(request_).id
    queue.close()

    page = start(outputs)
    wait_until(lambda: len(list(outputs.glob("2*/[!.]*.mp4"))) == 2, "both videos", JOB_SECONDS)
    page.process.send_signal(signal.SIGTERM)
    assert page.ends() == 0
    jobs = [left(outputs, job_id) for job_id in (killed_id, unbroken_id)]
    assert [job.state for job in jobs] == ["done", "done"]
    assert np.array_equal(*(read_frames(Path(job.progress.video or "")) for job in jobs))


def test_the_page_says_what_happened_to_a_job_and_stays_ready(outputs: Path, request_: Request, start: Start) -> None:
    queued(outputs, request_)
    page = start(outputs, "worker=raise")
    wait_until(lambda: "the fault asked for at worker" in page.shown(), "the error on the page")
    assert page.get("readyz").status_code == 200


def test_the_page_opens_on_a_damaged_queue_and_says_so(outputs: Path, request_: Request, start: Start) -> None:
    queued(outputs, request_)
    for file in (outputs / ".framepack").glob("jobs*.sqlite3"):
        file.write_bytes(b"<html>" * 1000)
    assert "The queue begins empty" in start(outputs).shown()


def test_a_job_in_a_process_of_its_own_does_not_outlive_the_page(
    start: Start, request_: Request, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever listened is gone: it ends with its next event, and the job is interrupted at the next start."""
    monkeypatch.setenv("FRAMEPACK_EXECUTORS", "cpu")
    job_id = queued(outputs, request_.model_copy(update={"seconds": 120.0, "steps": 100}))
    page = start(outputs, imported=False)
    until_sampling_the_second_section(outputs)
    loaded = {Path(file.path).name for file in psutil.Process(page.process.pid).memory_maps()}
    assert [name for name in loaded if "torch" in name] == []
    (child,) = psutil.Process(page.process.pid).children()
    assert {"generate", "--json", "--request=-"} <= set(child.cmdline())
    page.process.kill()
    assert page.ends() == -signal.SIGKILL
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end", STOP_SECONDS)
    job = left(outputs, job_id)
    assert (job.state, job.can_go_on) == ("interrupted", True)
