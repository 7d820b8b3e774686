"""How results reach the disk: whole or not at all, with the reason in plain words when they cannot.

Also where they go: one folder per day and one stem per job. Everything in this room that writes, writes through
``written_whole``.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import av
import psutil

from ..errors import OutputFailed
from ..words import Message, plain

log = logging.getLogger(__name__)

PARTIAL_NAME = re.compile(r"\.(\d+)_[0-9a-f]{12}\.part(\.\w+)?")
"""Who writes it (the process), chance, and the suffix."""
HASHED_AT_ONCE = 2**20
"""Bytes of a file."""

_NO_PERMISSION = Message("files.no_permission")
_FOLDER_GONE = Message("files.folder_gone")
_REASONS = {
    errno.ENOSPC: Message("files.disk_full"),
    errno.EDQUOT: Message("files.quota"),
    errno.EFBIG: Message("files.too_large"),
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: _NO_PERMISSION,
    errno.EISDIR: Message("files.folder_in_the_way"),
    errno.ENOENT: _FOLDER_GONE,
    errno.ENOTDIR: _FOLDER_GONE,
}


def _failed(target: Path, error: OSError | av.FFmpegError) -> OutputFailed:
    """The error that a user can act on, made from what the system or the muxer said."""
    return _not_written(target, _REASONS.get(error.errno or 0) or plain(error.strerror or str(error)))


def _not_written(target: Path, reason: Message) -> OutputFailed:
    return OutputFailed(Message("files.not_written", file=str(target), reason=reason))


def _sync(path: Path) -> None:
    """Waits until the bytes of ``path`` are on the disk, so that a rename never exposes a half-written file."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_whole(target: Path, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside ``target`` that takes its name once the block has ended well.

    The temporary name is hidden and keeps the suffix, because muxers choose the format by it. Whatever ends the
    block early removes the temporary file and leaves an older ``target`` as it was. Unless ``durable``, a power cut may
    still lose it. Raises OutputFailed.
    """
    target = target.absolute()
    part = target.with_name(f".{os.getpid()}_{secrets.token_hex(6)}.part{target.suffix}")
    try:
        yield part
        if durable:
            _sync(part)
        part.replace(target)
    except (OSError, av.FFmpegError) as error:
        raise _failed(target, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def sha256_of(file: Path) -> str:
    """Of its content, in hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(HASHED_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def nearest_existing(folder: Path) -> Path:
    """``folder``, or that of its parents which is there already."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if os.access(place, os.F_OK))


def free_bytes(folder: Path) -> int:
    """What is free on the disk where ``folder`` is or will be."""
    return shutil.disk_usage(nearest_existing(folder)).free


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises OutputFailed when the disk of ``folder`` has less than ``needed_bytes`` free."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _failed(folder, error) from error
    if free < needed_bytes:
        sizes = {"needed_mb": math.ceil(needed_bytes / 1e6), "free_mb": free // 10**6}
        raise OutputFailed(Message("files.no_space", folder=str(folder), **sizes))


def require_folder(folder: Path) -> None:
    """Raises OutputFailed where ``folder`` cannot be made, or no file in it. Tries it, and leaves nothing behind."""
    folder = folder.absolute()
    try:
        _try_in(next(place for place in (folder, *folder.parents) if os.path.lexists(place)))
    except OSError as error:
        raise _failed(folder, error) from error


def require_writable(target: Path) -> None:
    """Raises OutputFailed where ``written_whole`` could not write ``target``, or would replace what is protected or no
    file. Tries it, and leaves nothing behind; an older file stays untouched."""
    try:
        if target.exists():
            _require_replaceable(target)
        _try_in(target.absolute().parent)
    except OSError as error:
        raise _failed(target, error) from error


def _require_replaceable(target: Path) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "")
    if not target.is_file():
        raise _not_written(target, Message("files.no_file"))
    with target.open("r+b"):
        pass


def _try_in(folder: Path) -> None:
    """Make a file without a name; where a link is not followed, one with a name would be made for a moment."""
    with tempfile.TemporaryFile(dir=os.path.realpath(folder)):
        pass


def remove_partials(folder: Path) -> int:
    """Removes what killed writers left in ``folder`` and below; returns how many files that were.

    For use while this process writes nothing there; what another living process writes is left alone. A file that
    cannot be removed is logged and stays.
    """
    removed = 0
    for path in [path for path in folder.rglob(".*") if _is_abandoned(path)]:
        try:
            path.unlink(missing_ok=True)
            removed += 1
        except OSError as error:
            log.warning("The unfinished file %s could not be removed: %s", path, error.strerror)
    return removed


def _is_abandoned(path: Path) -> bool:
    named = PARTIAL_NAME.fullmatch(path.name)
    return named is not None and (int(named[1]) == os.getpid() or not psutil.pid_exists(int(named[1])))


def make_folder(folder: Path) -> Path:
    """Makes ``folder`` where it is missing, and those above it. Raises OutputFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(folder, error) from error
    return folder


def make_output_folder(folder: Path) -> Path:
    """``make_folder`` for a folder of the program's own below the output folder: the error asks for another one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = {"folder": str(folder), "reason": error.strerror}
        raise OutputFailed(Message("files.no_output_folder", **what)) from None
    return folder


def day_folder(root: Path, now: datetime) -> Path:
    """``root/YYYY-MM-DD``."""
    return root / f"{now:%Y-%m-%d}"


def job_stem(now: datetime, seed: int) -> str:
    """The name of a job's files without suffix: ``yymmdd_HHMMSS_milliseconds_seed``. Not unique by itself."""
    return f"{now:%y%m%d_%H%M%S}_{now.microsecond // 1000:03d}_{seed}"
