"""The program that serves the page, as somebody starts and stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

import demo_gradio
from diffusers_helper.jobs.executor import LocalExecutor
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.worker import Worker
from diffusers_helper.ui.server import PageServer

from ..conftest import ROOT
from ..jobs_support import wait_until
from ..program import PAGE, Program
from .serving import a_port

START_SECONDS = 60
SECRET = "very secret"  # noqa: S105


class Page:
    """The running program."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.address = process, f"http://127.0.0.1:{port}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.address + path, trust_env=False, timeout=5)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        try:
            return self.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Exit code, stdout and stderr after that signal."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@contextmanager
def started(output_dir: Path, *flags: str, stdout: int = subprocess.PIPE, **variables: str) -> Iterator[Page]:
    """The program, once its page answers."""
    port = a_port()
    command = [sys.executable, str(ROOT / "demo_gradio.py"), "--port", str(port), "--output-dir", str(output_dir)]
    environment: Mapping[str, str] = {**os.environ, **variables}
    with subprocess.Popen(
        [*command, *flags],
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=output_dir.parent,
    ) as process:
        page = Page(process, port)
        try:
            wait_until(page.answers, "the page", START_SECONDS)
            yield page
        finally:
            process.kill()


def test_the_page_opens_without_torch_says_where_it_is_and_ends_on_a_wish(tmp_path: Path) -> None:
    with started(tmp_path / "out", "--log-level", "debug", FRAMEPACK_AUTH=f"someone:{SECRET}") as page:
        assert "auth_required" in page.get("/").text
        assert page.get("/live?language=en").status_code == 401
        assert page.get("/readyz").status_code == 200
        loaded = {Path(file.path).name for file in psutil.Process(page.process.pid).memory_maps()}
        code, out, err = page.end(signal.SIGTERM)
    assert not [name for name in loaded if "torch" in name]
    assert code == 0
    assert f"FramePack is at {page.address}" in out
    assert "setting auth = set (environment)" in err
    assert f"setting output_dir = {tmp_path / 'out'} (flag)" in err
    assert "Traceback" not in err
    assert SECRET not in out + err


def test_a_page_for_everybody_without_a_password_is_warned_of_and_opens_without_a_checkpoint(tmp_path: Path) -> None:
    flags = ("--listen", "--checkpoint", "framepack", "--models-dir", str(tmp_path / "models"))
    with started(tmp_path / "out", *flags) as page:
        ready = page.get("/readyz")
        news = page.get("/live?language=en").json()
        code, _, err = page.end(signal.SIGINT)
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["checkpoint: it cannot be used"])
    assert "--auth" in json.dumps(news["fragments"]["warnings"])
    assert "can be reached from other machines without a password" in err
    assert "download framepack" in err
    assert code == 0


def test_nobody_reads_where_the_page_is_and_it_is_there_all_the_same(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with started(tmp_path / "out", stdout=writing) as page:
        code, _, err = page.end(signal.SIGTERM)
    os.close(writing)
    assert code == 0
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "99999"], "--port='99999': allowed is a whole number from 1 to 65535"),
        (["--max-upload-size", "much"], "--max-upload-size='much': give a size such as"),
        (["--root-path", "no slash"], "--root-path='no slash': give a path such as"),
        (["--server", "a b"], "--server='a b': give an address"),
        (["--auth", SECRET], "--auth: give a user and a password"),
        (["--share", "--offline"], "a public address needs the network"),
        (["--preset", "none of ours"], "There is no preset 'none of ours'"),
    ],
)
def test_what_cannot_be_used_is_said_and_ends_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    for name, value in dict(os.environ).items():
        monkeypatch.setenv(name, value)
    assert demo_gradio.main(["--output-dir", str(tmp_path), *flags]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert SECRET not in said


def test_a_second_program_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path)
    second = Program(PAGE, ("--output-dir", str(tmp_path)), ROOT, os.environ)
    assert second.wait(START_SECONDS) == 2
    queue.close()
    assert f"Another FramePack works on {tmp_path}" in second.errors()


def test_help_lists_every_flag_without_gradio() -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "demo_gradio.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    for flag in (
        "--share", "--server", "--listen", "--port", "--inbrowser", "--auth", "--output-dir", "--checkpoint",
        "--offline", "--preset", "--max-upload-size", "--root-path", "--mcp",
    ):  # fmt: skip
        assert flag in done.stdout
    assert "gradio" not in done.stderr.replace("demo_gradio", "")
    assert "torch" not in done.stderr


@pytest.mark.parametrize("stops", [True, False])
def test_the_engine_is_closed_with_the_page_unless_a_job_still_computes(
    stops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(LocalExecutor, "close", lambda executor: closed.append(True))
    monkeypatch.setattr(Worker, "stop", lambda worker, seconds: stops)
    monkeypatch.setattr(Worker, "start", lambda worker: None)
    monkeypatch.setattr(PageServer, "open", lambda page: page.addresses.append("http://127.0.0.1:7860"))
    monkeypatch.setattr(PageServer, "wait", lambda page, stop: True)
    monkeypatch.setattr(PageServer, "close", lambda page: None)
    assert demo_gradio.main(["--output-dir", str(tmp_path)]) == 0
    assert closed == [True] * stops
