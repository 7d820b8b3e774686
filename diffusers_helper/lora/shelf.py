"""The shelf: the folder where a user keeps LoRAs, and how the file of a request's LoRA is found.

A request says which file by its content, so one that was moved or renamed is found again, and one that was changed is
not taken for it. Needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import UnusableInput, UnusableLora
from ..media.files import sha256_of
from ..names import is_text, quoted, shown
from ..words import Message

SUFFIX = ".safetensors"
PICTURES = (".preview.png", ".png", ".jpg", ".jpeg", ".webp")
"""What a picture beside a LoRA has in the place of its suffix; the first goes before the others."""


LONGEST_NAME = 200
"""Of a file's name in bytes, without its suffix; most disks take 255, and names on the way are longer."""


def shelf_folder(models_dir: Path) -> Path:
    """Where the LoRAs of an installation lie."""
    return models_dir / "lora"


def new_place(folder: Path, given: str) -> Path:
    """Where a LoRA goes that somebody names: a new file of the folder itself. Raises UnusableInput."""
    name = given.strip().removesuffix(SUFFIX)
    plain = name.isprintable() and not set(name) & set('/\\:*?"<>|') and not name.startswith(".")
    if not name or not plain or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise UnusableInput(Message("ema.no_name", name=quoted(given)))
    place = folder.resolve() / f"{name}{SUFFIX}"
    if place.exists() or place.is_symlink():
        raise UnusableInput(Message("ema.name_taken", name=place.name))
    return place


class Shelf:
    """The LoRAs of a folder, and files elsewhere that somebody has named for this run.

    Attributes:
        folder: None where there is none.
    """

    def __init__(self, folder: Path | None = None, outside: Sequence[Path] = ()) -> None:
        self.folder, self._outside = folder, tuple(outside)
        self._hashes: dict[tuple[Path, int, int], str] = {}

    def files(self) -> dict[str, Path]:
        """Name -> file, of those in the folder and its sub-folders: as seen from it, with slashes; sorted.

        A link that leads out of the folder is none of them, nor is what is hidden, as a half-written file is, nor a
        name that is not UTF-8.
        """
        return dict(sorted((self._name(path), path) for path in self._files()))

    def pictures(self) -> dict[str, Path]:
        """Name of a LoRA's file without its suffix -> the picture that lies beside it."""
        found: dict[str, Path] = {}
        for ending in reversed(PICTURES):
            found.update((self._name(path)[: -len(ending)], path) for path in self._files(ending))
        return found

    def path(self, name: str) -> Path | None:
        """The file of this name in the folder; None where ``files`` has no such."""
        return self.files().get(name)

    def name_of(self, path: Path) -> str:
        """What a file is called in a request: as on the shelf where it lies there, else its own name."""
        return next((self._name(each) for each in self._files() if _is_same(each, path)), path.name)

    @property
    def place(self) -> str:
        """The folder, for people."""
        return shown(self.folder or "-")

    def is_outside(self, path: Path) -> bool:
        """Whether a file was named for this run and lies elsewhere."""
        return path in self._outside and not any(_is_same(each, path) for each in self._files())

    def sha256(self, path: Path) -> str:
        """Of a file's content, in hexadecimal digits; read again when its size or time is another. Raises OSError."""
        key = _stamp(path)
        if key not in self._hashes:
            self._hashes[key] = sha256_of(path)
        return self._hashes[key]

    def known_sha256(self, path: Path) -> str:
        """The same where it was read before; empty where it was not. Raises OSError."""
        return self._hashes.get(_stamp(path), "")

    def find(self, name: str, sha256: str) -> Path:
        """The file of this content, wherever it lies: where the name says, or else under another one.

        Raises:
            UnusableLora: no file has this content; says whether one has the name.
        """
        candidates = [*((path.name, path) for path in self._outside), *((self._name(at), at) for at in self._files())]
        candidates.sort(key=lambda each: each[0] != name)
        for _, path in candidates:
            if self._has(path, sha256):
                return path
        raise UnusableLora(self.not_found(name, sha256, any(called == name for called, _ in candidates)))

    def not_found(self, name: str, sha256: str, has_name: bool) -> Message:
        """What is said where no file has a content. ``has_name``: one has the name."""
        code = {"name": name, "folder": self.place, "sha256": sha256[:12]}
        return Message("lora.changed" if has_name else "lora.vanished", **code)

    def _has(self, path: Path, sha256: str) -> bool:
        try:
            return self.sha256(path) == sha256
        except OSError:
            return False

    def _files(self, ending: str = SUFFIX) -> Iterator[Path]:
        if self.folder is None:
            return
        inside = self.folder.resolve()
        for place, folders, names in os.walk(self.folder):
            folders[:] = (name for name in folders if not name.startswith("."))
            for path in (Path(place, name) for name in names if name.lower().endswith(ending)):
                if not path.name.startswith(".") and is_text(path) and _is_within(path, inside):
                    yield path

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder or path.parent).as_posix()


def _stamp(path: Path) -> tuple[Path, int, int]:
    """A file as it is now. Raises OSError."""
    found = path.stat()
    return path, found.st_size, found.st_mtime_ns


def _is_within(path: Path, folder: Path) -> bool:
    """Of a file that was found there: what is no link lies where it was found."""
    try:
        return path.is_file() and (not path.is_symlink() or path.resolve().is_relative_to(folder))
    except (OSError, RuntimeError):  # a ring of links
        return False


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
