"""Whether a result could be written is tried before the work, and trying leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffusers_helper.errors import OutputFailed
from diffusers_helper.media.files import require_folder, require_writable

NOBODY = 65534


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in ``folder``, with its mode and when it was changed."""
    there = {str(path): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {path: (status.st_mode, status.st_mtime_ns) for path, status in there.items()}


def a_new_file(folder: Path) -> Path:
    return folder / "new.mp4"


def an_older_file(folder: Path) -> Path:
    (folder / "older.mp4").write_bytes(b"older")
    return folder / "older.mp4"


def a_link_to_a_file(folder: Path) -> Path:
    (folder / "link.mp4").symlink_to(an_older_file(folder))
    return folder / "link.mp4"


def a_link_that_leads_nowhere(folder: Path) -> Path:
    (folder / "link.mp4").symlink_to("nowhere")
    return folder / "link.mp4"


def behind_a_linked_folder(folder: Path) -> Path:
    (folder / "there").mkdir()
    (folder / "here").symlink_to("there")
    return folder / "here" / "new.mp4"


def of_other_bytes(folder: Path) -> Path:
    return folder / os.fsdecode(b"\xff\xfe.mp4")


def of_255_bytes(folder: Path) -> Path:
    return folder / ("a" * 251 + ".mp4")


def with_a_line_break(folder: Path) -> Path:
    return folder / "a\nb.mp4"


@pytest.mark.parametrize(
    "place",
    [
        a_new_file,
        an_older_file,
        a_link_to_a_file,
        a_link_that_leads_nowhere,
        behind_a_linked_folder,
        of_other_bytes,
        of_255_bytes,
        with_a_line_break,
    ],
)
def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    target = place(tmp_path)
    before = listing(tmp_path)
    require_writable(target)
    assert listing(tmp_path) == before


def in_a_missing_folder(folder: Path) -> Path:
    return folder / "missing" / "v.mp4"


def below_a_file(folder: Path) -> Path:
    return an_older_file(folder) / "v.mp4"


def behind_a_link_that_leads_nowhere(folder: Path) -> Path:
    return a_link_that_leads_nowhere(folder) / "v.mp4"


def behind_a_link_to_itself(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop" / "v.mp4"


def a_folder(folder: Path) -> Path:
    (folder / "v.mp4").mkdir()
    return folder / "v.mp4"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "v.mp4")
    return folder / "v.mp4"


def a_device(folder: Path) -> Path:
    (folder / "v.mp4").symlink_to(os.devnull)
    return folder / "v.mp4"


def of_300_bytes(folder: Path) -> Path:
    return folder / ("a" * 296 + ".mp4")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (in_a_missing_folder, "its folder does not exist"),
        (below_a_file, "its folder does not exist"),
        (behind_a_link_that_leads_nowhere, "its folder does not exist"),
        (behind_a_link_to_itself, "symbolic links"),
        (a_folder, "a folder of that name is in the way"),
        (a_pipe, "no file but a pipe or a device"),
        (a_device, "no file but a pipe or a device"),
        (of_300_bytes, "name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, place: Callable[[Path], Path], words: str) -> None:
    target = place(tmp_path)
    before = listing(tmp_path)
    with pytest.raises(OutputFailed, match=words) as told:
        require_writable(target)
    assert str(target) in str(told.value)
    assert listing(tmp_path) == before


def test_a_read_only_disk(mounted: Callable[[str], Path]) -> None:
    disk = mounted("1m")
    an_older_file(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for target in (disk / "new.mp4", disk / "older.mp4"):
        with pytest.raises(OutputFailed, match="cannot be written"):
            require_writable(target)
    for folder in (disk, disk / "2026-01-31", disk / "a" / "b"):
        with pytest.raises(OutputFailed, match="cannot be written"):
            require_folder(folder)


@pytest.fixture
def protected(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """``protected(path, "i")``: nobody, not even root, may change ``path``; with "a" only append to it."""
    chattr, done = shutil.which("chattr"), []

    def protect(path: Path, how: str) -> None:
        if not chattr or subprocess.run([chattr, f"+{how}", str(path)], check=False, capture_output=True).returncode:
            pytest.skip("protecting a file from root needs root and a file system that can")
        done.append([chattr, f"-{how}", str(path)])

    yield protect
    for command in done:
        subprocess.run(command, check=True)


@pytest.mark.parametrize("how", ["i", "a"])
def test_a_file_that_is_protected_from_root(tmp_path: Path, protected: Callable[[Path, str], None], how: str) -> None:
    target = an_older_file(tmp_path)
    protected(target, how)
    with pytest.raises(OutputFailed, match="cannot be written"):
        require_writable(target)
    assert target.read_bytes() == b"older"


def test_a_folder_that_is_protected_from_root(tmp_path: Path, protected: Callable[[Path, str], None]) -> None:
    protected(tmp_path, "i")
    for refuse, place in ((require_writable, tmp_path / "v.mp4"), (require_folder, tmp_path / "2026-01-31")):
        with pytest.raises(OutputFailed, match="cannot be written"):
            refuse(place)


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder of somebody who is not root, which permissions do not stop; the test is that somebody meanwhile."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    try:
        folder = Path(tempfile.mkdtemp(dir="/tmp"))
        yield folder
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)
    finally:
        os.seteuid(was)


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o500, 0o600])
def test_a_folder_without_permission(own_folder: Path, mode: int) -> None:
    closed = own_folder / "closed"
    closed.mkdir()
    closed.chmod(mode)
    for refuse, place in (
        (require_writable, closed / "v.mp4"),
        (require_writable, closed / "further" / "v.mp4"),
        (require_folder, closed),
        (require_folder, closed / "2026-01-31"),
    ):
        with pytest.raises(OutputFailed, match=r"cannot be written|does not exist"):
            refuse(place)


def test_a_write_protected_file(own_folder: Path) -> None:
    target = an_older_file(own_folder)
    target.chmod(0o444)
    before = listing(own_folder)
    with pytest.raises(OutputFailed, match="cannot be written"):
        require_writable(target)
    assert listing(own_folder) == before


def test_a_folder_that_is_yet_to_be_made_is_not_made(tmp_path: Path) -> None:
    require_folder(tmp_path / "outputs" / "2026-01-31")
    assert list(tmp_path.iterdir()) == []
