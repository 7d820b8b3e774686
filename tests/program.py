"""Starts the program as a user does, in a process of its own, and reads what it says.

Most of a start is the import of libraries. These processes come from one that has imported them already (warm.py); all
else is as in a start of its own: arguments, folder, variables, streams, signals, exit code. test_streams.py,
test_entry.py and test_process_executor.py begin with Python itself.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from .conftest import ROOT

FAST = ("--seconds", "2.4", "--steps", "2", "--seed", "5")
MODULE, PAGE = "diffusers_helper", str(ROOT / "demo_gradio.py")
IMPORTED = multiprocessing.get_context("forkserver")
"""Makes processes in which everything is imported already."""
IMPORTED.set_forkserver_preload(["tests.warm"])


class Program:
    """A started program, with what is used of subprocess.Popen here."""

    def __init__(self, main: str, arguments: Sequence[str], cwd: Path, variables: Mapping[str, str]) -> None:
        """``main``: MODULE or PAGE."""
        reading, writing = os.pipe()
        self.stdout = os.fdopen(reading, encoding="utf-8")
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        given = (main, tuple(arguments), str(cwd), dict(variables))
        self._process = IMPORTED.Process(target=_run, args=(*given, _Handed(writing), _Handed(self._stderr.fileno())))
        self._process.start()
        os.close(writing)

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("the program", timeout or 0)
        return self.returncode

    def errors(self) -> str:
        """All of stderr so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode()


@dataclass(frozen=True)
class _Handed:
    """A file descriptor that goes along to a new process."""

    number: int

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _detached, (DupFd(self.number),)


def _detached(handed: Any) -> int:
    return int(handed.detach())


def _run(main: str, arguments: Sequence[str], cwd: str, variables: Mapping[str, str], out: int, err: int) -> None:
    """What a new process does."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = [main, *arguments]
    if main == MODULE:
        runpy.run_module(main, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(main, run_name="__main__")


def command(*arguments: str) -> list[str]:
    """A start of Python itself."""
    return [sys.executable, "-m", MODULE, *arguments]


def environment(home: Path) -> dict[str, str]:
    """This process's environment, with the program's folders under ``home``."""
    places = {"FRAMEPACK_OUTPUT_DIR": str(home / "outputs"), "HF_HOME": str(home / "models"), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **places}


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    process = Program(MODULE, arguments, home, environment(home))
    said = process.stdout.read()
    return subprocess.CompletedProcess(arguments, process.wait(60), said, process.errors())


def start(home: Path, *arguments: str) -> Program:
    """Start ``generate --json``; its events are lines of stdout."""
    return Program(MODULE, ("generate", "--json", *arguments), home, environment(home))


def events(process: Program) -> Iterator[dict[str, Any]]:
    """What a started program says, as it says it."""
    for line in process.stdout:
        yield json.loads(line)


def parsed(output: str) -> list[dict[str, Any]]:
    """All events of a finished ``--json`` run."""
    return [json.loads(line) for line in output.splitlines()]
