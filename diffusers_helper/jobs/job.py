"""A job: a request or a training in the queue, its state, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..errors import InvalidCommand
from ..events import Event, Started, Timed
from ..request import Request
from ..training.order import TrainingOrder
from ..words import Message
from .job_progress import JobProgress, fold
from .work import Work, kind_of, title_of

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
Keep: TypeAlias = Literal["now", "section", "nothing"]
"""What a stop keeps: the finished sections at once, those and the running one, or nothing."""

UNFINISHED: tuple[State, ...] = ("failed", "cancelled", "interrupted")
ENDED: tuple[State, ...] = ("done", *UNFINISHED)


@dataclass(frozen=True)
class Job:
    """One piece of work in the queue. Times are unix seconds; the order of jobs never depends on them.

    ``work`` is what is asked for: a request, or the order of a training.

    ``place`` orders the queued jobs, and the ended ones by their end; ``stop`` is a stop that was asked for and has not
    happened yet. ``executor`` says which one carries it out; empty while it does not run, and where there is one only.

    ``checkpoint`` is the source of the one it is for; an empty one, as in jobs of earlier versions, is the one that is
    chosen when the job begins, and its work folder's when it goes on. It stands beside the request, as in a work folder
    and in a video's metadata, so that a request and a preset mean the same whatever is installed.

    ``twin`` is the number of the job that it is compared with, which may have been deleted since; 0 for none. Each of
    two names the other (twins.py).

    ``batch`` is the number of the first of the jobs that were queued together with this one; 0 for one that was queued
    alone.
    """

    id: int
    state: State
    work: Work
    created_at: float
    place: int = 0
    progress: JobProgress = field(default_factory=JobProgress)
    stop: Keep | None = None
    started_at: float | None = None
    ended_at: float | None = None
    checkpoint: str = ""
    executor: str = ""
    twin: int = 0
    batch: int = 0

    @property
    def request(self) -> Request:
        """The video or picture that is asked for. Raises InvalidCommand where it is a training."""
        if isinstance(self.work, TrainingOrder):
            raise InvalidCommand(Message("command.training", job=self.id))
        return self.work

    @property
    def order(self) -> TrainingOrder | None:
        """The training that is asked for, where it is one."""
        return self.work if isinstance(self.work, TrainingOrder) else None

    @property
    def title(self) -> str:
        """What people know it by: its prompt, or the name of the LoRA that is trained."""
        return title_of(self.work)

    @property
    def shown_at(self) -> tuple[int, float, int]:
        """Sorts running, queued, ended; of the running the first begun first, of the ended the newest end."""
        if self.state == "running":
            return 0, self.started_at or 0.0, self.place
        return (1, 0.0, self.place) if self.state == "queued" else (2, 0.0, -self.place)

    @property
    def checkpoint_name(self) -> str:
        """What people are told; empty where it is still open."""
        return Path(self.checkpoint).name

    @property
    def can_go_on(self) -> bool:
        """Whether there is something unfinished to go on with: a work folder, or what a training has left."""
        if self.order:
            return self.state in UNFINISHED and self.order.state.is_file()
        folder = self.progress.folder
        return self.state in ENDED and folder is not None and Path(folder, "job.json").is_file()

    def after(self, event: Event, now: float) -> Job:
        """The job when ``event`` was told."""
        progress = fold(self.progress, event)
        if isinstance(event, Timed):
            progress = replace(progress, told_at=now)
        if isinstance(event, Started) and self.started_at is not None:
            progress = replace(progress, seconds_loading=now - self.started_at)
        return replace(self, progress=progress)

    @property
    def ready_at(self) -> float | None:
        """When the video will be there; None while that is not known, and where the job does not run."""
        left = self.progress.seconds_left
        return self.progress.told_at + left if self.state == "running" and left is not None else None

    @property
    def fraction(self) -> float | None:
        """The share of the whole video's time that was over when the time left was told; None while that is not known.

        It grows as time goes by, to 1 at ``ready_at``. The sections that an earlier run has finished count as they are.
        Of a training it is the share of its steps.
        """
        if self.ready_at is None or self.started_at is None:
            return None
        progress, over = self.progress, self.progress.told_at - self.started_at
        if progress.learning:
            return progress.learning.step / progress.learning.steps
        before = progress.sections_before / progress.sections if progress.sections else 0.0
        whole = self.ready_at - self.started_at
        return before + (1 - before) * (over / whole if whole > 0 else 1.0)

    def snapshot(self) -> dict[str, Any]:
        """What a program is told of the job."""
        progress = self.progress
        return {
            "id": self.id,
            "state": self.state,
            "checkpoint": self.checkpoint_name,
            "executor": self.executor,
            "batch": self.batch,
            "phase": progress.phase if self.state == "running" else None,
            "section": progress.section,
            "sections": progress.sections,
            "step": progress.step_number,
            "steps": progress.steps,
            "seconds_left": progress.seconds_left,
            "frames": progress.frames,
            "seed": progress.seed,
            "error": progress.error,
            "ready_at": self.ready_at,
            "fraction": self.fraction,
            "notices": [notice.message for notice in progress.notices],
            "stop": self.stop,
            "prompt": self.title,
            "work": kind_of(self.work),
            "can_go_on": self.can_go_on,
        }


@dataclass(frozen=True)
class UnreadableJob:
    """A row of the queue's file that is no job: it is kept as it is and shown, and can be deleted.

    Attributes:
        reason: why it cannot be read.
        row: what the file holds, column by column.
    """

    id: int
    reason: Message
    row: tuple[Any, ...]

    def snapshot(self) -> dict[str, Any]:
        """What a program is told of it, in the place of a job's."""
        times = ("seconds_left", "ready_at", "fraction")
        unknown = dict.fromkeys(("checkpoint", "executor", "phase", "seed", "stop", "prompt", "work", *times), None)
        counts = dict.fromkeys(("batch", "section", "sections", "step", "steps", "frames"), 0)
        said = {"id": self.id, "state": "unreadable", "error": str(self.reason), "notices": [], "can_go_on": False}
        return {**unknown, **counts, **said}
