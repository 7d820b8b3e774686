"""Data for trainings on the page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..jobs_support import make_picture
from .serving import make_video
from .stage import HOSTILE

HERE: Any = SimpleNamespace(client=SimpleNamespace(host="127.0.0.1"), headers={"host": "127.0.0.1:7860"})
ELSEWHERE: Any = SimpleNamespace(client=SimpleNamespace(host="10.0.0.7"), headers={"host": "10.0.0.1:7860"})
"""Browsers on this machine, and on another."""


def videos(folder: Path) -> Path:
    """A folder with two videos, of which one has a caption; and what is none of its business."""
    folder.mkdir()
    for name in ("a", "b"):
        make_video(folder / f"{name}.mp4")
    (folder / "a.txt").write_text(f"a wave {HOSTILE}", encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    return folder


def pairs(folder: Path, extra: str = "") -> Path:
    """Data sets of one picture with its control picture."""
    for part in ("img", "ctl"):
        (folder / part).mkdir()
        make_picture(folder, "red").rename(folder / part / "one.png")
    (folder / "img" / "one.txt").write_text("red", encoding="utf-8")
    sets = ['image_directory="img"', 'control_directory="ctl"', extra]
    (folder / "sets.toml").write_text("\n".join(["[[datasets]]", *sets]), encoding="utf-8")
    return folder / "sets.toml"
