"""What was deleted comes back for a while: which files lie where in the trash folder, in this run of the program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidCommand, OutputFailed
from ..words import Message
from .job import Job, UnreadableJob
from .results import TRASH, Moved, in_trash, moved

UNDO_SECONDS = 600.0


@dataclass(frozen=True)
class _Deleted:
    """A job, where its files were and are, and until when it can come back."""

    job: Job | UnreadableJob
    moved: Moved
    until: float


class Trash:
    """The trash of one output folder. Its methods are called with the queue's lock held."""

    def __init__(self, output_dir: Path, clock: Callable[[], float]) -> None:
        self._output_dir, self._clock = output_dir, clock
        self._deleted: dict[int, _Deleted] = {}

    @property
    def jobs(self) -> list[Job | UnreadableJob]:
        """Those that can come back, the last deleted first."""
        now = self._clock()
        return [deleted.job for deleted in self._deleted.values() if deleted.until > now][::-1]

    @contextmanager
    def taking(self, job: Job | UnreadableJob) -> Iterator[None]:
        """Move a job's files here; back, where the block fails. Of an unreadable one none are known.

        Raises OutputFailed.
        """
        with in_trash(self._output_dir, job) if isinstance(job, Job) else nullcontext(()) as moves:
            yield
        self._deleted = {kept.id: self._deleted[kept.id] for kept in self.jobs[::-1]}
        self._deleted[job.id] = _Deleted(job, moves, self._clock() + UNDO_SECONDS)

    @contextmanager
    def giving_back(self, job_id: int) -> Iterator[Job | UnreadableJob]:
        """Move what there still is of a job's files to where they were; back, where the block fails.

        Raises InvalidCommand, OutputFailed.
        """
        if job_id not in (job.id for job in self.jobs):
            raise InvalidCommand(Message("command.undo_over", job=job_id, folder=TRASH))
        deleted = self._deleted[job_id]
        moves = tuple((place, was) for was, place in deleted.moved if place.exists())
        for _, was in moves:
            if was.exists():
                raise OutputFailed(Message("command.undo_in_the_way", job=job_id, place=str(was)))
        with moved(moves):
            yield deleted.job
        del self._deleted[job_id]
