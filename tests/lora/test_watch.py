"""The shelf while it is looked at: what comes, goes and changes is noticed, and nobody who asks waits."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusers_helper.lora.dialects import written_names
from diffusers_helper.lora.header import Header, not_read
from diffusers_helper.lora.shelf import Shelf
from diffusers_helper.lora.watch import LOOK_SECONDS, Meant, OnShelf, Watch
from diffusers_helper.words import Message

from ..jobs_support import make_picture, wait_until
from . import building
from .building import SHAPES


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A shelf in a folder, looked at as if time went by."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        folder.mkdir(parents=True, exist_ok=True)
        self.watch = Watch(Shelf(folder), lambda: {"small": written_names(SHAPES)}, self.clock)

    def put(self, name: str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return building.peft().write(file.parent, file.name)

    def shows(self, is_right: Callable[[tuple[OnShelf, ...]], object]) -> tuple[OnShelf, ...]:
        """The files, once they are as they should be and read."""

        def looked() -> tuple[OnShelf, ...] | None:
            self.clock.now += LOOK_SECONDS + 1
            files = self.watch.files()
            settled = self.watch.has_looked and all(each.label or each.problem for each in files)
            return (*files,) if settled and is_right(files) else None

        wait_until(lambda: looked() is not None, "the files")
        return self.watch.files()

    def meant(self, name: str, sha256: str = "") -> Meant | Message:
        found = wait_until(lambda: self.watch.meant(name, sha256), "the content")
        assert isinstance(found, Meant | Message)
        return found


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "lora")


def names(files: tuple[OnShelf, ...]) -> list[str]:
    return [each.name for each in files]


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_files_come_and_go_and_each_time_the_version_grows(watched: Watched) -> None:
    watched.shows(lambda files: not files)
    before = watched.watch.version
    file = watched.put("people/🦊 <b>.safetensors")
    (found,) = watched.shows(len)
    assert found.name == "people/🦊 <b>.safetensors"
    assert found.label is not None
    assert found.label.fits["small"].problem is None
    assert watched.watch.version > before
    file.unlink()
    watched.shows(lambda files: not files)


def test_it_is_not_looked_at_more_often_than_that(watched: Watched) -> None:
    watched.shows(lambda files: not files)
    wait_until(lambda: not watched.watch._is_looking)
    watched.put("a.safetensors")
    watched.watch.files()
    assert not watched.watch._is_looking


def test_a_bad_file_is_there_with_its_reason_and_spoils_no_other(watched: Watched) -> None:
    watched.put("good.safetensors")
    whole = (watched.folder / "good.safetensors").read_bytes()
    for name, content in {"half": whole[:-9], "html": b"<html>", "none": b""}.items():
        (watched.folder / f"{name}.safetensors").write_bytes(content)
    (watched.folder / "old.pt").write_bytes(b"PK\x03\x04")
    for hidden in (".1_abc.part.safetensors", ".cache/a.safetensors"):
        watched.put(hidden)
    files = watched.shows(len)
    told = {each.name.partition(".")[0]: str(each.problem or "") for each in files}
    assert told.keys() == {"good", "half", "html", "none"}
    assert told["good"] == ""
    assert [told[name].partition(",")[0].partition(" (")[0] for name in ("half", "html", "none")] == [
        "it is no safetensors file",
        "it is a web page. Download the file itself; some sites want a login for it.",
        "it is empty",
    ]
    (watched.folder / "half.safetensors").write_bytes(whole)
    watched.shows(lambda files: all(each.label for each in files if each.name == "half.safetensors"))


def test_a_file_that_was_locked_is_read_once_it_is_free(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(path: Path) -> Header:
        raise not_read(path, PermissionError(errno.EACCES, "it is in use"))

    watched.put("a.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("diffusers_helper.lora.watch.read_header", locked)
        (found,) = watched.shows(len)
        assert "it is in use" in str(found.problem)
    watched.shows(lambda files: files[0].label)


def test_the_picture_beside_a_file_is_found_and_none_from_elsewhere(watched: Watched, tmp_path: Path) -> None:
    for name in ("with", "linked", "without"):
        watched.put(f"sub/{name}.safetensors")
    picture = make_picture(watched.folder / "sub")
    picture.rename(watched.folder / "sub" / "with.png")
    (watched.folder / "sub" / "linked.png").symlink_to(make_picture(tmp_path))
    files = {each.name: each for each in watched.shows(len)}
    found = files["sub/with.safetensors"]
    assert found.picture is not None
    assert found.picture.path.name == "with.png"
    assert watched.watch.picture(found.picture_key) == found.picture
    assert files["sub/linked.safetensors"].picture is files["sub/without.safetensors"].picture is None
    for key in ("", "x", "../with.png"):
        assert watched.watch.picture(key) is None


def test_a_name_means_the_file_of_today(watched: Watched) -> None:
    file = watched.put("a.safetensors")
    assert watched.watch.meant("a.safetensors") is None
    watched.shows(len)
    assert watched.meant("a.safetensors") == Meant("a.safetensors", sha256(file))
    building.musubi_framepack().write(watched.folder, "a.safetensors")
    assert watched.meant("a.safetensors") == Meant("a.safetensors", sha256(file))
    told = watched.meant("none.safetensors")
    assert isinstance(told, Message)
    assert "none.safetensors" in str(told)


def test_a_content_means_its_file_wherever_it_lies(watched: Watched) -> None:
    content = sha256(watched.put("sub/renamed.safetensors"))
    building.musubi_framepack().write(watched.folder, "style.safetensors")
    watched.shows(lambda files: len(files) == 2)
    assert watched.meant("style.safetensors", content) == Meant("sub/renamed.safetensors", content)
    changed, vanished = (watched.meant(name, "0" * 64) for name in ("style.safetensors", "gone.safetensors"))
    assert "is another one now" in str(changed)
    assert "No LoRA with the content of gone.safetensors" in str(vanished)


def test_no_more_is_read_than_until_a_content_is_found(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noted(path: Path) -> str:
        read.append(path.name)
        return sha256(path)

    monkeypatch.setattr("diffusers_helper.lora.shelf.sha256_of", noted)
    for name in "abcde":
        watched.put(f"{name}.safetensors")
    building.musubi_framepack().write(watched.folder, "style.safetensors")
    watched.shows(lambda files: len(files) == 6)
    content = sha256(watched.folder / "style.safetensors")
    assert watched.watch.wait(lambda: watched.watch.meant("style.safetensors", content) is not None, 20)
    wait_until(lambda: not watched.watch._to_hash)
    assert read == ["style.safetensors"]
    assert watched.meant("style.safetensors", "0" * 64)
    assert sorted(read) == [f"{name}.safetensors" for name in (*"abcde", "style")]


def test_nobody_waits_for_a_hash(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()

    def slowly(path: Path) -> str:
        assert held.wait(20)
        return "f" * 64

    monkeypatch.setattr("diffusers_helper.lora.shelf.sha256_of", slowly)
    watched.put("a.safetensors")
    watched.shows(len)
    assert watched.watch.meant("a.safetensors") is None
    assert not watched.watch.wait(lambda: watched.watch.meant("a.safetensors") is not None, 0.05)
    before = watched.watch.version
    held.set()
    assert watched.watch.wait(lambda: watched.watch.meant("a.safetensors") is not None, 20)
    wait_until(lambda: watched.watch.version > before, "the news of it")
