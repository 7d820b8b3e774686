"""What can be asked about the jobs of a queue; whoever only reads needs no more. Thread-safe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InvalidCommand, UnknownJob
from ..forecast import Paces
from ..media.places import whole
from ..models.table import Checkpoint
from ..request import Recipe
from ..words import Message
from .estimate import Estimates
from .job import Job, UnreadableJob
from .ledger import Ledger
from .pictures import thumbnail_of
from .trash import Trash

OWN_FOLDER = ".framepack"


class QueueReader:
    """The jobs of one output folder, as they are now."""

    def __init__(
        self, output_dir: Path, checkpoint: Callable[[str], Checkpoint | None], clock: Callable[[], float]
    ) -> None:
        """Open the queue of ``output_dir``. Raises AlreadyRunning."""
        self.output_dir = whole(output_dir)
        self._checkpoint, self._clock = checkpoint, clock
        self._ledger = Ledger(self.output_dir / OWN_FOLDER)
        self._changed = self._ledger.changed
        self._employed: frozenset[str] = frozenset()
        self._halted: dict[str, Message] = {}  # why, by executor
        self._loaded: dict[str, str] = {}  # the checkpoint of the last job that has begun, by executor
        self._trash = Trash(self.output_dir, clock)
        self._estimates = Estimates(self.jobs, checkpoint)

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._ledger.version

    @property
    def steady_version(self) -> int:
        """Grows with every change but steps and previews."""
        return self._ledger.steady_version

    @property
    def notices(self) -> tuple[Message, ...]:
        """What is wrong with the queue itself; empty when all is well."""
        return (*self._ledger.notices, *self._halted.values())

    @property
    def paused(self) -> bool:
        """Whether no further job is begun."""
        return self._ledger.paused or (self.is_halted and self._halted.keys() >= self._employed)

    @property
    def is_halted(self) -> bool:
        """Whether an executor begins no further job, until the queue is unpaused or opened anew."""
        return bool(self._halted)

    def jobs(self) -> list[Job]:
        """The running ones, the first begun first; the queued in their order; then the ended, newest end first."""
        with self._changed:
            return sorted(self._ledger.jobs.values(), key=lambda job: job.shown_at)

    @property
    def unreadable(self) -> list[UnreadableJob]:
        """What stands in the file and is no job; it can be removed and deleted, and nothing else."""
        with self._changed:
            return list(self._ledger.unreadable.values())

    @property
    def trashed(self) -> list[Job | UnreadableJob]:
        """The jobs that can be brought back from the trash, the last deleted first."""
        with self._changed:
            return self._trash.jobs

    @property
    def is_running(self) -> bool:
        """Whether a job is being carried out."""
        return any(job.state == "running" for job in self.jobs()[:1])

    def job(self, job_id: int) -> Job:
        """Raises UnknownJob, and InvalidCommand for one that cannot be read."""
        if unreadable := self._ledger.unreadable.get(job_id):
            raise InvalidCommand(Message("command.unreadable", job=job_id, reason=unreadable.reason))
        try:
            return self._ledger.jobs[job_id]
        except KeyError:
            raise UnknownJob(Message("command.unknown", job=job_id)) from None

    def snapshot(self, job_id: int) -> dict[str, Any]:
        """What a program is told of a job, also of an unreadable one. Raises UnknownJob."""
        return (self._ledger.unreadable.get(job_id) or self.job(job_id)).snapshot()

    def snapshots(self) -> list[dict[str, Any]]:
        """The same of all, the unreadable ones last."""
        with self._changed:
            return [*(job.snapshot() for job in self.jobs()), *(job.snapshot() for job in self.unreadable)]

    def events(self, job_id: int) -> list[dict[str, Any]]:
        """What the job has told, oldest first; steps and previews are not kept."""
        return self._ledger.events(self.job(job_id).id)

    def picture(self, job_id: int) -> Path:
        """The start picture of a job, as it was given. Raises InvalidCommand where it is a training."""
        return Path(self.job(job_id).request.shown_picture)

    def thumbnail(self, job_id: int) -> Path:
        """A small PNG of the start picture."""
        return thumbnail_of(self.picture(job_id))

    def result(self, job_id: int) -> Path:
        """The finished video, or what is playable of an unfinished one. Raises InvalidCommand when there is none."""
        video = self.job(job_id).progress.video
        if video is None or not Path(video).is_file():
            raise InvalidCommand(Message("command.no_video", job=job_id))
        return Path(video)

    def estimate(self, recipe: Recipe, source: str = "") -> float | None:
        """Seconds that ``recipe`` will take with this checkpoint, as earlier jobs did; None when that is not known."""
        return self._estimates.seconds(recipe, source)

    def paces(self, recipe: Recipe, source: str = "") -> Paces:
        """What earlier jobs of this checkpoint teach of one like ``recipe``."""
        return self._estimates.paces(recipe, source)
