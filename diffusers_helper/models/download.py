"""Fetching a known checkpoint from the hub, told as events, into the layout of the hub library's cache.

Stopping it at any moment, by an exception, ``close`` or ``kill -9``, keeps what has arrived; the next one goes on from
there. A file takes its place only when its size and hash are right.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from filelock import FileLock, Timeout

from ..errors import AlreadyRunning, OutputFailed, UnusableCheckpoint, UnusableInput
from ..events import Downloaded, Downloading, Event, Events, Notice
from ..media.files import free_bytes, make_folder, written_whole
from ..words import Message
from .hub import MAIN, Hub, HubFile, Trouble, size_of
from .table import (
    CHECKPOINTS,
    KnownCheckpoint,
    commit_of,
    find_checkpoint,
    missing_parts,
    repository_folder,
    require_text,
)

T = TypeVar("T")

SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Of the files that a part is loaded from."""
HASH_BYTES = 2**24
SHA256_LENGTH = 64
EVENT_SECONDS = 0.5


def download_checkpoint(name: str, models_dir: Path, hub: Hub, verify: bool = False) -> Events:
    """Fetch what is missing of ``name`` into ``models_dir``. A complete checkpoint needs no network.

    Args:
        verify: read every file that is there and compare its hash; fetch damaged ones again.

    Raises:
        UnusableInput: a name that is not in the table.
        UnusableCheckpoint: the hub could not be reached, refused, or sent something else than it promised.
        OutputFailed: too little space, or the folder cannot be written.
        AlreadyRunning: another download goes into the same folder.
    """
    known = CHECKPOINTS.get(name)
    if known is None:
        raise UnusableInput(Message("checkpoint.unknown", name=repr(name), known=", ".join(CHECKPOINTS)))
    require_text(models_dir)
    parts = list(known.sources) if verify else missing_parts(known, models_dir)
    if parts:
        if known.quantised_gb:
            yield Notice.of(_later(known, models_dir))
        with _alone(models_dir):
            yield from _Download(name, known, models_dir, hub, verify).run(parts)
    find_checkpoint(name, models_dir)
    yield Downloaded(checkpoint=name, folder=str(models_dir))


def _later(known: KnownCheckpoint, models_dir: Path) -> Message:
    sizes = {"all_gb": known.size_gb, "later_gb": known.quantised_gb, "free": free_bytes(models_dir)}
    return Message("download.later", **sizes, folder=str(models_dir))


def _unwritable(folder: Path, error: OSError) -> Message:
    return Message("files.not_writable", folder=str(folder), reason=error.strerror or str(error))


@contextmanager
def _alone(models_dir: Path) -> Iterator[None]:
    """One download per models folder."""
    lock = FileLock(make_folder(models_dir / "hub") / ".framepack-download.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise AlreadyRunning(Message("download.another", folder=str(models_dir))) from None
    except OSError as error:
        raise OutputFailed(_unwritable(models_dir, error)) from None
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Download:
    """One download under way."""

    name: str
    known: KnownCheckpoint
    models_dir: Path
    hub: Hub
    verify: bool
    progress: _Progress = field(init=False)

    def run(self, parts: Sequence[str]) -> Events:
        self.progress = _Progress(self.name)
        missing = []
        for repository in dict.fromkeys(self.known.sources[part].repository for part in parts):
            files = yield from self._tell(self._listed(repository))
            subfolders = self._subfolders(repository)
            for file in files:
                here = not _is_loaded(file, subfolders) or (yield from self._is_here(file))
                missing += [] if here else [file]
        self._plan(missing)
        for file in missing:
            yield from self._fetch(file)

    def _subfolders(self, repository: str) -> set[str]:
        """Of the parts to look at in a repository, now that it is known at which commit."""
        parts = self.known.sources if self.verify else missing_parts(self.known, self.models_dir)
        sources = [self.known.sources[part] for part in parts]
        return {source.subfolder for source in sources if source.repository == repository}

    def _listed(self, repository: str) -> Generator[Trouble | int, None, list[HubFile]]:
        """Of the commit that this machine has begun with, so that all parts stay of one piece."""
        head = self._folder(repository) / "refs" / MAIN
        begun = commit_of(self._folder(repository)) or MAIN
        files = yield from self.hub.files(repository, begun)
        if files and files[0].commit != begun:
            make_folder(head.parent)
            with written_whole(head) as part:
                part.write_text(files[0].commit, encoding="utf-8")
        return files

    def _folder(self, repository: str) -> Path:
        return repository_folder(self.models_dir, repository)

    def _is_here(self, file: HubFile) -> Generator[Event, None, bool]:
        """Whether a file is in its place, whole. One that is elsewhere in the cache is put there."""
        pointer, blob = self._pointer(file), self._folder(file.repository) / "blobs" / file.key
        if size_of(pointer) != file.size and size_of(blob) == file.size:
            _link(blob, pointer)
        if size_of(pointer) != file.size:
            return False
        if not self.verify:
            return True
        named = {"file": file.path, "repository": file.repository}
        yield Notice.of(Message("download.checking", **named))
        if (yield from self._tell(_has_hash(pointer, file))):
            return True
        yield Notice.of(Message("download.damaged", **named))
        pointer.resolve().unlink()
        return False

    def _pointer(self, file: HubFile) -> Path:
        return self._folder(file.repository) / "snapshots" / file.commit / file.path

    def _plan(self, missing: Sequence[HubFile]) -> None:
        """What is to come, if the disk has room for it."""
        self.progress.total = sum(file.size for file in missing)
        self.progress.before = sum(size_of(self._partial(file)) for file in missing)
        needed, free = self.progress.total - self.progress.before, shutil.disk_usage(self.models_dir).free
        if needed > free:
            sizes = {"needed_gb": needed / 1e9, "free_gb": free / 1e9}
            raise OutputFailed(Message("download.no_space", name=self.name, folder=str(self.models_dir), **sizes))

    def _partial(self, file: HubFile) -> Path:
        return self._folder(file.repository) / "blobs" / f"{file.key}.incomplete"

    def _fetch(self, file: HubFile) -> Events:
        """One file, a second time from its beginning when the first is not what the hub promised."""
        partial, named = self._partial(file), {"file": file.path, "repository": file.repository}
        try:
            for _ in range(2):
                make_folder(partial.parent)
                yield from self._tell(self.hub.fetch(file, partial), file)
                if (yield from self._tell(_has_hash(partial, file))):
                    blob = partial.replace(partial.with_suffix(""))
                    _link(blob, self._pointer(file))
                    self.progress.done += file.size
                    return
                partial.unlink()
                yield Notice.of(Message("download.arrived_damaged", **named))
        except OSError as error:
            raise OutputFailed(_unwritable(partial.parent, error)) from error
        raise UnusableCheckpoint(Message("download.wrong_hash", **named, hub=self.hub.endpoint))

    def _tell(self, work: Generator[Trouble | int, None, T], file: HubFile | None = None) -> Generator[Event, None, T]:
        """The events of ``work``: troubles as notices, the bytes there are of ``file`` as progress."""
        while True:
            try:
                said = next(work)
            except StopIteration as end:
                return end.value
            if isinstance(said, Trouble):
                yield Notice.of(Message("download.again", trouble=said.what, seconds=round(said.seconds)))
            elif file and (event := self.progress.event(file, said)):
                yield event


@dataclass
class _Progress:
    """Bytes so far, of all files that were missing; ``before`` is what an earlier download has left of them."""

    checkpoint: str
    total: int = 0
    before: int = 0
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    last: float = -EVENT_SECONDS

    def event(self, file: HubFile, have: int) -> Downloading | None:
        """With ``have`` bytes of ``file``; None when the last one was a moment ago."""
        now = time.monotonic()
        if now - self.last < EVENT_SECONDS and have < file.size:
            return None
        self.last = now
        here = self.done + min(have, file.size)
        arrived, seconds = here - self.before, now - self.started
        left = (self.total - here) * seconds / arrived if arrived > 0 else None
        return Downloading(
            checkpoint=self.checkpoint,
            file=f"{file.repository}/{file.path}",
            bytes_done=here,
            bytes_total=self.total,
            seconds_left=None if left is None else round(left, 1),
        )


def _is_loaded(file: HubFile, subfolders: set[str]) -> bool:
    """Whether a part of one of these folders is loaded from it."""
    path = PurePosixPath(file.path)
    folder = "" if path.parent == PurePosixPath() else str(path.parent)
    return folder in subfolders and path.suffix in SUFFIXES


def _has_hash(path: Path, file: HubFile) -> Generator[int, None, bool]:
    """Whether ``path`` holds ``file``; with a pulse, since reading 10 GB takes a while."""
    large = len(file.key) == SHA256_LENGTH
    digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(HASH_BYTES):
            digest.update(piece)
            yield file.size
    return digest.hexdigest() == file.key


def _link(blob: Path, pointer: Path) -> None:
    """Put a blob into its snapshot: by a link, or itself where there are no links."""
    make_folder(pointer.parent)
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        blob.replace(pointer)
