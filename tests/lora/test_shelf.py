"""The shelf: what lies on it, and which file a request's LoRA is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from diffusers_helper.errors import UnusableLora
from diffusers_helper.lora.shelf import Shelf


def put(path: Path, content: str = "a") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def hash_of(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


LONG = "ü" * 121 + "a.safetensors"
"""255 bytes."""


def test_files_of_the_folder_and_its_sub_folders_are_on_it(tmp_path: Path) -> None:
    assert len(os.fsencode(LONG)) == 255
    for name in ("b.safetensors", "people/🦊 fox.SafeTensors", LONG, "notes.txt", "old.pt"):
        put(tmp_path / "lora" / name, name)
    shelf = Shelf(tmp_path / "lora")
    assert set(shelf.files()) == {"b.safetensors", "people/🦊 fox.SafeTensors", LONG}
    for name in shelf.files():
        assert shelf.path(name) == tmp_path / "lora" / name
        assert shelf.find(name, hash_of(name)) == tmp_path / "lora" / name
    assert Shelf(tmp_path / "none").files() == Shelf().files() == {}


def test_nothing_outside_of_the_folder_is_on_it(tmp_path: Path) -> None:
    secret, folder = put(tmp_path / "secret.safetensors"), tmp_path / "lora"
    put(folder / "real.safetensors", "b")
    (folder / "link.safetensors").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    (folder / "ring.safetensors").symlink_to(folder / "ring.safetensors")
    (folder / "within.safetensors").symlink_to(folder / "real.safetensors")
    shelf = Shelf(folder)
    assert tuple(shelf.files()) == ("real.safetensors", "within.safetensors")
    for name in ("../secret.safetensors", str(secret), "link.safetensors", "linked/secret.safetensors"):
        assert shelf.path(name) is None
        with pytest.raises(UnusableLora, match="No LoRA with the content"):
            shelf.find(name, hash_of("a"))


def test_a_shelf_that_is_a_link_itself_is_one(tmp_path: Path) -> None:
    put(tmp_path / "big disk" / "a.safetensors")
    (tmp_path / "lora").symlink_to(tmp_path / "big disk", target_is_directory=True)
    assert tuple(Shelf(tmp_path / "lora").files()) == ("a.safetensors",)


def test_a_file_that_was_renamed_or_moved_is_found_by_its_content(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    put(tmp_path / "style.safetensors", "another")
    moved = put(tmp_path / "old" / "other name.safetensors", "a")
    assert shelf.find("style.safetensors", hash_of("a")) == moved
    assert shelf.name_of(moved) == "old/other name.safetensors"


def test_a_file_that_has_vanished_or_changed_is_told(tmp_path: Path) -> None:
    shelf, file = Shelf(tmp_path), put(tmp_path / "style.safetensors")
    assert shelf.find("style.safetensors", hash_of("a")) == file
    put(file, "changed")
    with pytest.raises(UnusableLora, match=r"style\.safetensors is another one now.*" + hash_of("a")[:12]):
        shelf.find("style.safetensors", hash_of("a"))
    file.unlink()
    with pytest.raises(UnusableLora, match=r"content of style\.safetensors.*is there"):
        shelf.find("style.safetensors", hash_of("a"))


def test_a_file_is_read_once_for_its_hash(tmp_path: Path) -> None:
    shelf, file = Shelf(tmp_path), put(tmp_path / "style.safetensors")
    before = file.stat()
    assert shelf.sha256(file) == hash_of("a")
    file.write_text("b")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert shelf.sha256(file) == hash_of("a")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert shelf.sha256(file) == hash_of("b")


def test_a_file_elsewhere_is_found_where_it_was_named(tmp_path: Path) -> None:
    file = put(tmp_path / "elsewhere" / "style.safetensors")
    shelf = Shelf(tmp_path / "lora", [file])
    assert shelf.find("style.safetensors", hash_of("a")) == file
    assert shelf.is_outside(file)
    put(tmp_path / "lora" / "style.safetensors", "a")
    on_it = Shelf(tmp_path / "lora", [tmp_path / "lora" / "style.safetensors"])
    assert not on_it.is_outside(tmp_path / "lora" / "style.safetensors")


def test_what_is_hidden_or_half_written_is_not_on_it(tmp_path: Path) -> None:
    for name in (".a.safetensors", ".1_abc.part.safetensors", ".hidden/b.safetensors", "sub/.c.safetensors"):
        put(tmp_path / name)
    put(tmp_path / "seen.safetensors")
    assert tuple(Shelf(tmp_path).files()) == ("seen.safetensors",)


def test_a_hash_is_known_once_it_was_asked_for(tmp_path: Path) -> None:
    shelf, file = Shelf(tmp_path), put(tmp_path / "style.safetensors")
    assert shelf.known_sha256(file) == ""
    shelf.sha256(file)
    assert shelf.known_sha256(file) == hash_of("a")
    put(file, "changed")
    assert shelf.known_sha256(file) == ""
