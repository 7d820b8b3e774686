"""Paths in the output folder: kept so that it may be moved, and told from those that lie elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffusers_helper.media.places import kept, lies_in, whole

OUT = Path("/home/a/outputs")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/home/a/outputs/2026-01-31/v.mp4", "2026-01-31/v.mp4"),
        ("/home/a/outputs/v.mp4", "v.mp4"),
        ("/home/a/outputs/.framepack/pictures/ab.picture", ".framepack/pictures/ab.picture"),
        ("/home/a/outputs/2026-01-31/a b\n☕.mp4", "2026-01-31/a b\n☕.mp4"),
        ("/home/a/outputs/2026-01-31/\udcff.mp4", "2026-01-31/\udcff.mp4"),
        ("/home/a/v.mp4", "/home/a/v.mp4"),
        ("/home/a/outputs2/v.mp4", "/home/a/outputs2/v.mp4"),
        ("/media/usb/outputs/v.mp4", "/media/usb/outputs/v.mp4"),
        ("v.mp4", "v.mp4"),
        ("../v.mp4", "../v.mp4"),
    ],
)
def test_only_what_lies_in_the_folder_is_kept_as_seen_from_it(path: str, text: str) -> None:
    assert kept(path, OUT) == text
    assert kept(str(OUT / text), OUT) == kept(path, OUT), "joining finds it again"


def test_a_whole_path_has_no_detours_and_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert whole(Path("../link/./v.mp4")) == tmp_path / "link" / "v.mp4"


@pytest.mark.parametrize("below", ["", "out", "../out", "link/../out", "out/link/v.mp4"])
def test_above_a_link_is_above_where_it_leads_as_the_system_has_it(tmp_path: Path, below: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "disk" / "videos").mkdir(parents=True)
    (tmp_path / "disk" / "link").symlink_to(tmp_path / "home")
    (tmp_path / "home" / "videos").symlink_to(tmp_path / "disk" / "videos")
    path = tmp_path / "home" / "videos" / ".." / below
    assert ".." not in whole(path).parts
    assert whole(path).resolve() == path.resolve()


def test_a_link_after_the_last_detour_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert whole(tmp_path / "x" / ".." / "link" / "v.mp4") == tmp_path / "link" / "v.mp4"


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An output folder that is a link itself, with days of its own, on another disk, and links of other kinds."""
    elsewhere, real = tmp_path / "elsewhere", tmp_path / "real"
    for folder in (elsewhere / "work", real / "2026-01-31", real / ".framepack"):
        folder.mkdir(parents=True)
    for file in (elsewhere / "v.mp4", elsewhere / "work" / "v.mp4", tmp_path / "v.mp4", real / "2026-01-31" / "v.mp4"):
        file.touch()
    (real / "2026-02-01").symlink_to(elsewhere)
    (real / "2026-02-02").symlink_to("2026-02-01")
    (real / "2026-02-03").symlink_to(tmp_path / "v.mp4")
    (real / "folder").symlink_to(elsewhere)
    (real / "2026-01-31" / "folder").symlink_to(elsewhere)
    (real / "2026-01-31" / "link.mp4").symlink_to(elsewhere / "v.mp4")
    (elsewhere / "link.mp4").symlink_to(tmp_path / "v.mp4")
    (elsewhere / "2026-02-01").symlink_to(tmp_path)
    (tmp_path / "outputs").symlink_to(real)
    return tmp_path / "outputs"


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("2026-01-31/v.mp4", True),
        ("2026-01-31/no_longer.mp4", True),
        ("2026-02-01/v.mp4", True),
        ("2026-02-01/work/v.mp4", True),
        ("2026-02-02/v.mp4", True),
        ("2026-01-31/../2026-02-01/v.mp4", True),
        ("", False),
        (".", False),
        ("..", False),
        ("../v.mp4", False),
        ("2026-01-31/../../v.mp4", False),
        ("2026-02-01/../../v.mp4", False),
        ("2026-02-01", False),
        ("2026-02-03", False),
        ("2026-02-01/link.mp4", False),
        ("2026-02-01/../v.mp4", False),
        ("2026-02-01/2026-02-01/v.mp4", False),
        ("2026-01-31/link.mp4", False),
        ("2026-01-31/folder/v.mp4", False),
        ("folder/v.mp4", False),
        ("/etc/passwd", False),
        ("2026-02-01/../../../../../../../../etc/passwd", False),
    ],
)
def test_a_days_folder_may_be_a_link_and_nothing_else(outputs: Path, path: str, ours: bool) -> None:
    assert lies_in(outputs, outputs / path) is ours


def test_a_path_is_seen_from_where_the_program_works(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(outputs.parent)
    assert lies_in(Path("outputs"), outputs / "2026-01-31" / "v.mp4")
    assert lies_in(outputs, Path("outputs", "2026-02-01", "v.mp4"))
    assert not lies_in(Path("outputs"), Path("v.mp4"))
    assert os.path.lexists("v.mp4")
