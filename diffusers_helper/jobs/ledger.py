"""The jobs in memory, in front of the store. What a user does is on the disk or refused; what the worker did has
happened, so where the disk refuses it stays in memory until the disk is well.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from ..errors import AlreadyRunning, QueueUnavailable
from ..events import Event
from ..words import Message
from .job import Job, UnreadableJob
from .lock import InstanceLock
from .store import open_store

log = logging.getLogger(__name__)


class Ledger:
    """The jobs of one folder. Its methods are called with ``changed`` held.

    Attributes:
        jobs, unreadable: by their number.
        changed: the lock of everything here; notified at every change.
        version: grows with every change.
        steady_version: the same without steps and previews, which follow each other quickly.
    """

    def __init__(self, folder: Path) -> None:
        """Raises AlreadyRunning."""
        self.changed = threading.Condition(threading.RLock())
        self.version = self.steady_version = 0
        self._folder, self._lock = folder, InstanceLock(folder)
        self._lock.acquire()
        self._store, self._opened = open_store(folder)
        jobs, unreadable = self._store.read()
        self.jobs = {job.id: job for job in jobs}
        self.unreadable = {each.id: each for each in unreadable}
        self.paused = self._store.paused
        self._unsaved: frozenset[int] = frozenset()

    @property
    def notices(self) -> tuple[Message, ...]:
        """What is wrong with the file; empty when all is well."""
        return (*self._opened, Message("queue_notice.unsaved")) if self._unsaved else self._opened

    @property
    def is_whole(self) -> bool:
        """Whether all jobs are known: none is hidden in a file or a row that could not be read."""
        return not (self._opened or self.unreadable)

    def new_id(self) -> int:
        """A number that no job has had."""
        return self._store.new_id()

    def last_place(self) -> int:
        """The highest place that is taken."""
        return max((job.place for job in self.jobs.values()), default=0)

    def events(self, job_id: int) -> list[dict[str, Any]]:
        """What a job has told."""
        return self._store.events(job_id)

    def write(self, *jobs: Job) -> None:
        """A user's change: on disk or not at all. Raises QueueUnavailable."""
        self._save(*jobs)
        self.show(*jobs)

    def keep(self, job: Job, event: Event | None = None) -> None:
        """The worker's change, and what it was told by."""
        self.show(job)
        try:
            self._save(job)
            if event:
                self._store.log_event(job.id, event)
        except QueueUnavailable as error:
            self._unsaved |= {job.id}
            log.warning("job %d is not saved: %s", job.id, error)

    def show(self, *jobs: Job, passing: bool = False) -> None:
        """A change in memory only; ``passing``: a step or a preview."""
        self.jobs.update({job.id: job for job in jobs})
        self._announce(passing)

    def forget(self, job_id: int) -> None:
        """Raises QueueUnavailable."""
        self._check_file()
        self._store.delete(job_id)
        for kept in (self.jobs, self.unreadable):
            kept.pop(job_id, None)
        self._announce()

    def put_back(self, unreadable: UnreadableJob) -> None:
        """Take in again what ``forget`` has let go. Raises QueueUnavailable."""
        self._check_file()
        self._store.put_back(unreadable)
        self.unreadable[unreadable.id] = unreadable
        self._announce()

    def set_paused(self, paused: bool) -> None:
        """Raises QueueUnavailable."""
        self._check_file()
        self._store.set_paused(paused)
        self.paused = paused
        self._announce()

    def back_up(self) -> None:
        """Copy the file."""
        self._store.back_up()

    def tell_address(self, address: str) -> None:
        """Leave word for a second program."""
        self._lock.tell(address)

    def close(self) -> None:
        """Write everything and let go of the folder."""
        try:
            self._save(*self.jobs.values())
        except QueueUnavailable as error:
            log.warning("the queue is not saved: %s", error)
        self._store.close()
        self._lock.release()

    def _save(self, *jobs: Job) -> None:
        """Write ``jobs``, and what could not be written before."""
        self._check_file()
        late = {number: self.jobs[number] for number in self._unsaved if number in self.jobs}
        self._store.save(*{**late, **{job.id: job for job in jobs}}.values())
        self._unsaved = frozenset()

    def _check_file(self) -> None:
        """Begin the file anew where somebody removed it; with it the lock may be gone and another program be there."""
        if not self._store.is_removed:
            return
        try:
            self._lock.release()
            self._lock.acquire()
        except AlreadyRunning as error:
            raise QueueUnavailable(error.said) from None
        self._store.close()
        self._store, self._opened = open_store(self._folder)
        self._unsaved = frozenset(self.jobs)
        self._store.set_paused(self.paused)
        for unreadable in self.unreadable.values():
            self._store.put_back(unreadable)

    def _announce(self, passing: bool = False) -> None:
        self.version += 1
        self.steady_version += not passing
        self.changed.notify_all()
