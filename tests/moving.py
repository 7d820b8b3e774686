"""Ways in which a user moves an output folder; each returns where it is then."""

from __future__ import annotations

import os
from pathlib import Path


def renamed(home: Path) -> Path:
    return (home / "outputs").rename(home / "Ergebnisse von 2026 ☕")


def moved_deeper(home: Path) -> Path:
    (home / "a" / "b").mkdir(parents=True)
    return (home / "outputs").rename(home / "a" / "b" / "c")


def moved_up(home: Path) -> Path:
    return (home / "outputs").rename(home.parent / "o")


def moved_with_the_program(home: Path) -> Path:
    return home.rename(home.parent / "program") / "outputs"


def of_other_bytes(home: Path) -> Path:
    return (home / "outputs").rename(home / os.fsdecode(b"\xff\xfe"))
