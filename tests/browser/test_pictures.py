"""The pictures of the page in the documents are made by a script, and the script works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageStat

from tests.conftest import ROOT
from tests.program import PAGE, Program


def brightness(picture: Path) -> float:
    return float(ImageStat.Stat(Image.open(picture).convert("L")).mean[0])


class Forked(Program):
    """The page's program from a process that has imported what it needs, as the script starts and ends one."""

    def __init__(self, command: list[str], cwd: Path, stdout: int, text: bool) -> None:
        python, main, *flags = command
        assert (python, main, stdout, text) == (sys.executable, PAGE, subprocess.PIPE, True)
        super().__init__(main, flags, cwd, os.environ)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()


def test_the_page_is_pictured_light_and_dark(
    browser: Any, photograph: Path, quick_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a video long enough that the quick checkpoint does not end before the pictures."""
    from tools import page_pictures

    monkeypatch.setattr(page_pictures, "subprocess", SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE))
    page_pictures.take(browser, photograph, tmp_path, str(quick_checkpoint), seconds="60")
    light, dark = (tmp_path / f"page_{scheme}.png" for scheme in page_pictures.SCHEMES)
    assert brightness(light) > 2 * brightness(dark)
    for picture in (light, dark):
        assert Image.open(picture).size == Image.open(ROOT / "docs" / picture.name).size
