"""The shelf, looked at while the program runs: what lies there now, each with its label, and whose content is whose.

Nobody who asks waits: the folder is walked, headers are read and files are hashed in threads of their own, and
``version`` grows with all that is found out. The folder is looked at again when somebody asks and that was long enough
ago: names, sizes and times alone, so a file is read again only when it has changed. Needs no torch.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import UnusableLora
from ..words import Message
from .header import read_header, why_not_read
from .label import Label, Names, label_of
from .shelf import SUFFIX, Shelf

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
REST = 20
"""The folder is left alone for so many times as long as walking it took: it may lie on a slow disk."""
TELL_SECONDS = 0.5
"""How often it is told what was read meanwhile, while many headers are read."""


class Stamp(NamedTuple):
    """A file as it was."""

    path: Path
    size: int
    changed_ns: int


@dataclass(frozen=True)
class OnShelf:
    """A file that lies on the shelf.

    Attributes:
        name: as a request calls it.
        label: None while its header is not read yet, and where it cannot be used.
        problem: why it cannot be used, whatever the checkpoint.
        picture: what lies beside it.
    """

    name: str
    stamp: Stamp
    label: Label | None = None
    problem: Message | None = None
    picture: Stamp | None = None

    @property
    def picture_key(self) -> str:
        """What its picture is asked for by: says nothing of where that lies, and is another once that has changed."""
        return hashlib.sha256(repr(self.picture).encode()).hexdigest()[:32] if self.picture else ""


@dataclass(frozen=True)
class Meant:
    """The file that somebody means: what it is called now, and its content."""

    name: str
    sha256: str


Read = tuple[Label | None, Message | None]
NOT_READ: Read = (None, None)


class Watch:
    """Thread-safe.

    Attributes:
        version: grows with all that is found out.
    """

    def __init__(
        self,
        shelf: Shelf,
        checkpoints: Callable[[], Mapping[str, Names]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``checkpoints``: those that files are held against, by name; it is called in a thread."""
        self.shelf, self._checkpoints, self._clock = shelf, checkpoints, clock
        self.version = 0
        self._entries: tuple[OnShelf, ...] | None = None
        self._changed = threading.Condition()
        self._is_looking, self._next_look = False, -1.0
        self._labels: dict[Stamp, Read] = {}
        self._held_against: Mapping[str, Names] = {}
        self._to_hash: list[Path] = []
        self._unreadable: dict[Stamp, Message] = {}

    def files(self) -> tuple[OnShelf, ...]:
        """What lies there, by name, as it was last seen; the folder is looked at again when that is long ago."""
        self._look()
        return self._entries or ()

    @property
    def has_looked(self) -> bool:
        """Whether what lies there is known yet."""
        return self._entries is not None

    def named(self, name: str) -> OnShelf | None:
        """The file of that name."""
        return next((each for each in self.files() if each.name == name), None)

    def content_of(self, file: OnShelf) -> str:
        """The SHA-256 of a file's content where it is known already; else empty."""
        return self._known(file) or ""

    def picture(self, key: str) -> Stamp | None:
        """The picture that is asked for by this key."""
        return next((each.picture for each in self._entries or () if key and each.picture_key == key), None)

    def meant(self, name: str, sha256: str = "") -> Meant | Message | None:
        """The file of a name, or where a content is given the file of that, as ``Shelf.find`` chooses.

        Returns a message where there is none, and None as long as that is being found out.
        """
        files = {each.name: each for each in self.files()}
        if not self.has_looked:
            return None
        return self._of_content(files, name, sha256) if sha256 else self._of_name(files.get(name), name)

    def wait(self, found_out: Callable[[], bool], seconds: float) -> bool:
        """Wait until that is so, at most so long; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(found_out, seconds)

    def _of_name(self, file: OnShelf | None, name: str) -> Meant | Message | None:
        if file is None:
            return Message("lora.not_on_shelf", name=name, folder=self.shelf.place)
        if file.problem:
            return Message("lora.of_file", name=name, reason=file.problem)
        content = self._known(file)
        if content is None:
            self._hash([file.stamp.path])
            return None
        return Meant(name, content) if content else self._unreadable.get(file.stamp)

    def _of_content(self, files: Mapping[str, OnShelf], name: str, sha256: str) -> Meant | Message | None:
        sound = (each for each in files.values() if not each.problem)
        ordered = sorted(sound, key=lambda each: each.name != name)
        known = {each.name: self._known(each) for each in ordered}
        for called, content in known.items():
            if content == sha256:
                return Meant(called, sha256)
        unknown = [each.stamp.path for each in ordered if known[each.name] is None]
        self._hash(unknown[:1])  # whoever still asks then, has the next one read
        return None if unknown else self.shelf.not_found(name, sha256, name in files)

    def _known(self, file: OnShelf) -> str | None:
        """The content of a file; empty where it cannot be read, None where it was not read yet."""
        try:
            return self.shelf.known_sha256(file.stamp.path) or ("" if file.stamp in self._unreadable else None)
        except OSError:
            return ""

    # The folder.

    def _look(self) -> None:
        with self._changed:
            if self._is_looking or self._clock() < self._next_look:
                return
            self._is_looking = True
        threading.Thread(target=self._look_now, name="lora shelf", daemon=True).start()

    def _look_now(self) -> None:
        began, took = self._clock(), 0.0
        try:
            listed = self._listed()
            took = self._clock() - began
            self._read_all(listed, self._checkpoints())
        except Exception:
            log.exception("the folder %s cannot be looked at", self.shelf.place)
        finally:
            with self._changed:
                self._next_look = self._clock() + max(LOOK_SECONDS, REST * took)
                self._is_looking = False

    def _listed(self) -> list[OnShelf]:
        pictures = {name: _stamp(path) for name, path in self.shelf.pictures().items()}
        stamps = {name: _stamp(path) for name, path in self.shelf.files().items()}
        return [
            OnShelf(name, stamp, picture=pictures.get(name[: -len(SUFFIX)])) for name, stamp in stamps.items() if stamp
        ]

    def _read_all(self, listed: list[OnShelf], checkpoints: Mapping[str, Names]) -> None:
        """Labels are kept until a file or the checkpoints change; what the system did not hand out is tried again."""
        if checkpoints != self._held_against:
            self._labels, self._held_against = {}, checkpoints
        known = {each.stamp: self._labels[each.stamp] for each in listed if each.stamp in self._labels}
        self._labels = known
        told = self._tell(listed)
        for each in listed:
            if each.stamp not in known or _was_withheld(known[each.stamp]):
                known[each.stamp] = _read(each.stamp.path, checkpoints)
                if self._clock() - told > TELL_SECONDS:
                    told = self._tell(listed)
        self._tell(listed)

    def _tell(self, listed: list[OnShelf]) -> float:
        """Show what is known of these now; returns when."""
        entries = tuple(
            OnShelf(each.name, each.stamp, *self._labels.get(each.stamp, NOT_READ), each.picture) for each in listed
        )
        with self._changed:
            if entries != self._entries:
                self._entries = entries
                self._found_out()
        return self._clock()

    def _found_out(self) -> None:
        self.version += 1
        self._changed.notify_all()

    # Contents.

    def _hash(self, paths: list[Path]) -> None:
        """Read these files whole, one after the other; returns at once."""
        with self._changed:
            is_idle = not self._to_hash
            self._to_hash += [path for path in paths if path not in self._to_hash]
            begins = is_idle and bool(self._to_hash)
        if begins:
            threading.Thread(target=self._hash_all, name="lora hash", daemon=True).start()

    def _hash_all(self) -> None:
        while True:
            path, problem = self._to_hash[0], None
            try:
                self.shelf.sha256(path)
            except OSError as error:
                name = self.shelf.name_of(path)
                problem = Message("lora.of_file", name=name, reason=why_not_read(error))
            with self._changed:
                if problem and (stamp := _stamp(path)):
                    self._unreadable[stamp] = problem
                self._found_out()
                self._to_hash.pop(0)
                if not self._to_hash:
                    return


def _stamp(path: Path) -> Stamp | None:
    """None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(path, found.st_size, found.st_mtime_ns)


def _was_withheld(read: Read) -> bool:
    """Whether it could not be read for a reason that leaves no trace on the file when it passes, as a lock does."""
    return read[1] is not None and read[1].code == "lora.not_read"


def _read(path: Path, checkpoints: Mapping[str, Names]) -> Read:
    try:
        return label_of(read_header(path), checkpoints), None
    except UnusableLora as error:
        reason = error.said.values.get("reason")
        return None, reason if isinstance(reason, Message) else error.said
