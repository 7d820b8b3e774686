"""One program per output folder: the second is told about the first."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import AlreadyRunning
from ..words import Message

log = logging.getLogger(__name__)

LOCK, INSTANCE = "lock", "instance.json"


class InstanceLock:
    """Held from ``acquire`` until ``release`` or the end of the process, however that comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / LOCK, thread_local=False)  # any thread may have to take it anew

    def acquire(self) -> None:
        """Take the folder. One that cannot be written needs no lock: nobody can work on it.

        Raises:
            AlreadyRunning: another program holds it; the message says where its page is.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:  # it is an OSError too
            where = {"folder": str(self._folder.parent), "holder": self._holder()}
            raise AlreadyRunning(Message("queue_notice.other_program", **where)) from None
        except OSError as error:
            log.warning("%s cannot be locked: %s", self._folder, error.strerror)
        self.tell("")

    def tell(self, address: str) -> None:
        """Leave word for a second program of where this one's page is."""
        content = json.dumps({"process": os.getpid(), "address": address})
        try:
            (self._folder / INSTANCE).write_text(content, encoding="utf-8")
        except OSError as error:
            log.warning("%s cannot be written: %s", self._folder / INSTANCE, error.strerror)

    def release(self) -> None:
        """Let the next program have the folder."""
        self._lock.release()

    def _holder(self) -> Message:
        try:
            said = json.loads((self._folder / INSTANCE).read_text(encoding="utf-8"))
            return Message("queue_notice.holder", process=f"{int(said['process'])} {said['address']}".strip())
        except (OSError, ValueError, KeyError, TypeError):
            return Message("queue_notice.holder_unknown")
