"""Starts the program as a user does, in a process of its own, and reads what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .conftest import ROOT

FAST = ("--seconds", "2.4", "--steps", "2", "--seed", "5")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "diffusers_helper", *arguments]


def environment(home: Path) -> dict[str, str]:
    """This process's environment, with the program's folders under ``home``."""
    places = {"FRAMEPACK_OUTPUT_DIR": str(home / "outputs"), "HF_HOME": str(home / "models"), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **places}


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        command(*arguments), env=environment(home), cwd=home, capture_output=True, text=True, timeout=300, check=False
    )


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start ``generate --json``; its events are lines of stdout."""
    return subprocess.Popen(
        command("generate", "--json", *arguments),
        env=environment(home),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What a started program says, as it says it."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def parsed(output: str) -> list[dict[str, Any]]:
    """All events of a finished ``--json`` run."""
    return [json.loads(line) for line in output.splitlines()]
