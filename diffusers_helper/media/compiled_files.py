"""Compiled decoders on disk: a file each, beside it what it is for and its hash; oldest use goes first. Needs no torch.

A file whose hash is another one is as good as none. What stands in the way of writing is no error of a video: whoever
compiles goes on without keeping it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import OutputFailed
from .files import make_folder, remove_partials, require_space, sha256_of, written_whole

log = logging.getLogger(__name__)

SUFFIX, LOCK = ".pt2", "lock"
FORM = 1
"""Of the compiled function: what it takes and gives."""


@dataclass(frozen=True)
class Key:
    """All that a compiled decoder depends on. It holds no weights, so it depends on none.

    Attributes:
        latents: frames of the chunk; ``height`` and ``width`` are latent rows and columns.
        device: the kind of machine that it is for.
        vae: hash of the VAE's config.
        versions: of the libraries.
    """

    back_end: str
    batch: int
    latents: int
    height: int
    width: int
    dtype: str
    device: str
    vae: str
    versions: str
    form: int = FORM

    @property
    def name(self) -> str:
        """Of its file, without suffix."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Kept:
    """One on disk.

    Attributes:
        size: bytes.
        made: when, in seconds since the epoch; ``used`` is the last time.
    """

    file: Path
    key: Key
    size: int
    sha256: str
    made: float
    used: float

    @property
    def shape(self) -> str:
        """For people: what it decodes at once."""
        key = self.key
        return f"{key.batch} x {4 * key.latents} frames of {8 * key.width}x{8 * key.height}, {key.dtype}"


def compiled_folder(models_dir: Path) -> Path:
    """Where compiled decoders are kept."""
    return models_dir / "compiled_decoders"


class CompiledFiles:
    """The folder. At most ``limit_bytes`` are kept in it, but always the newest."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes

    def listed(self) -> list[Kept]:
        """All that can be read, the last used first."""
        found = (_read(description) for description in self._folder.glob("*.json"))
        return sorted((each for each in found if each), key=lambda kept: kept.used, reverse=True)

    def clear(self) -> list[Kept]:
        """Remove all, also what broken-off work has left; returns what there was."""
        known = self.listed()
        for path in [*self._folder.glob("*.json"), *self._folder.glob(f"*{SUFFIX}")]:
            _remove(path)
        remove_partials(self._folder)
        return known

    def find(self, key: Key) -> Path | None:
        """The file of ``key``, which counts as used now; None where there is none that is whole."""
        description = self._description(key)
        kept = _read(description)
        if kept is None:
            return None
        if _sha256(kept.file) != kept.sha256:
            log.warning("%s is damaged; it is made again", kept.file)
            return None
        with suppress(OSError):
            os.utime(description)
        return kept.file

    def keep(self, key: Key, made: Path) -> Path:
        """Take a copy of ``made`` and let go of what is too much then. Raises OutputFailed."""
        size = made.stat().st_size
        make_folder(self._folder)
        remove_partials(self._folder)
        self._make_room(size, key)
        require_space(self._folder, size)
        file = self._folder / f"{key.name}{SUFFIX}"
        with written_whole(file) as part:
            shutil.copyfile(made, part)
        said = {"key": asdict(key), "size": size, "sha256": _sha256(made)}
        with written_whole(self._description(key)) as part:
            part.write_text(json.dumps(said), encoding="utf-8")
        return file

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Of all threads and processes. A folder that cannot be written needs no lock: nothing will be kept there."""
        lock = FileLock(self._folder / LOCK, thread_local=False)
        try:
            make_folder(self._folder)
            lock.acquire(poll_interval=0.2)
        except (OSError, OutputFailed) as error:
            log.warning("%s cannot be locked: %s", self._folder, error)
        try:
            yield
        finally:
            lock.release()

    def _description(self, key: Key) -> Path:
        return self._folder / f"{key.name}.json"

    def _make_room(self, size: int, key: Key) -> None:
        """Remove those whose last use is longest ago, until one of ``size`` bytes fits."""
        others = [kept for kept in self.listed() if kept.key != key]
        while others and size + sum(kept.size for kept in others) > self._limit:
            oldest = others.pop()
            log.info("%s goes: it was used last of all, and more than the limit would be kept", oldest.file)
            _remove(oldest.file.with_suffix(".json"))
            _remove(oldest.file)


def _read(description: Path) -> Kept | None:
    """None where the description or its file is missing, or says nothing that is known."""
    try:
        said: Any = json.loads(description.read_text(encoding="utf-8"))
        file = description.with_suffix(SUFFIX)
        made, used = file.stat().st_mtime, description.stat().st_mtime
        return Kept(file, Key(**said["key"]), int(said["size"]), str(said["sha256"]), made, used)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        return f"unreadable: {error}"


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s could not be removed: %s", path, error.strerror)
