"""Opening a folder: which program is asked, with which folder, and where there is none."""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.ui.folders import open_folder


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[list[str]]:
    """The commands that were run, on a machine with a screen and every program."""
    calls: queue.Queue[list[str]] = queue.Queue()

    def call(command: list[str], **options: Any) -> int:
        calls.put(command)
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("DISPLAY", ":0")
    return calls


@pytest.mark.parametrize(("platform", "program"), [("linux", "xdg-open"), ("darwin", "open"), ("win32", "explorer")])
def test_the_system_s_own_program_is_asked(
    called: queue.Queue[list[str]], tmp_path: Path, platform: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    folder = tmp_path / "; rm -rf $HOME"
    folder.mkdir()
    assert open_folder(folder)
    assert called.get(timeout=10) == [f"/bin/{program}", str(folder)]


def test_without_a_screen_a_program_or_the_folder_nothing_opens(
    called: queue.Queue[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert not open_folder(tmp_path / "gone")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not open_folder(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not open_folder(tmp_path)
    assert called.empty()
