"""The shelf: the folder where a user keeps LoRAs, and how the file of a request's LoRA is found.

A request says which file by its content, so one that was moved or renamed is found again, and one that was changed is
not taken for it. Needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import UnusableLora
from ..media.files import sha256_of
from ..names import is_text, shown
from ..words import Message

SUFFIX = ".safetensors"


def shelf_folder(models_dir: Path) -> Path:
    """Where the LoRAs of an installation lie."""
    return models_dir / "lora"


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

        A link that leads out of the folder is none of them, nor is a name that is not UTF-8.
        """
        return dict(sorted((self._name(path), path) for path in self._files()))

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
        found = path.stat()
        key = (path, found.st_size, found.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = sha256_of(path)
        return self._hashes[key]

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
        if any(called == name for called, _ in candidates):
            raise UnusableLora(Message("lora.changed", name=name, folder=self.place, sha256=sha256[:12]))
        raise UnusableLora(Message("lora.vanished", name=name, folder=self.place, sha256=sha256[:12]))

    def _has(self, path: Path, sha256: str) -> bool:
        try:
            return self.sha256(path) == sha256
        except OSError:
            return False

    def _files(self) -> Iterator[Path]:
        if self.folder is None:
            return
        inside = self.folder.resolve()
        for place, _, names in os.walk(self.folder):
            for path in (Path(place) / name for name in names):
                if path.suffix.lower() == SUFFIX and is_text(path) and _is_within(path, inside):
                    yield path

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder or path.parent).as_posix()


def _is_within(path: Path, folder: Path) -> bool:
    try:
        return path.is_file() and path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # a ring of links
        return False


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
