"""How long a request will take on this machine, learnt from the jobs that the same checkpoint has finished there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from ..forecast import UNKNOWN, Paces, Work
from ..models.table import Checkpoint
from ..request import Recipe
from .job import Job

log = logging.getLogger(__name__)
T = TypeVar("T")

LATEST = 5
"""How many jobs count: the machine may be busier or slower than it was long ago."""
LOADING_SECONDS = 1.0
"""A job that began sooner found the models loaded."""


@dataclass(frozen=True)
class Experience:
    """What the jobs that a checkpoint has finished teach; the newest first.

    Attributes:
        whole: those that were done in one go: only there do the seconds belong to all sections.
    """

    checkpoint: str
    finished: tuple[Job, ...]
    whole: tuple[Job, ...]

    @classmethod
    def of(cls, jobs: Iterable[Job], checkpoint: str) -> Experience:
        """From ``jobs``, of which the newest that ended stands first."""
        videos = (job for job in jobs if job.state == "done" and not job.order)
        finished = tuple(job for job in videos if job.progress.checkpoint == checkpoint)
        return cls(checkpoint, finished, tuple(job for job in finished if _was_whole(job)))

    def seconds(self, recipe: Recipe) -> float | None:
        """What ``recipe`` takes once the models are loaded; None before a job was done."""
        if not self.whole:
            return None
        sizes = [job.progress.width * job.progress.height for job in self.whole[:LATEST]]
        return Work.of(recipe, _pixels(recipe.size) or int(median(sizes))).seconds(self.paces(recipe))

    def seconds_of(self, job: Job, loaded: str) -> float | None:
        """What ``job`` takes from now on, where the models of the checkpoint ``loaded`` are loaded."""
        seconds, progress = self.seconds(job.request), job.progress
        if seconds is None:
            return None
        loading = 0.0 if loaded == self.checkpoint else self._loading_seconds()
        return loading + seconds * (1 - progress.sections_done / max(progress.sections, 1))

    def paces(self, recipe: Recipe) -> Paces:
        """The paces at which a job like ``recipe`` is done."""
        latest = self.whole[:LATEST]
        if not latest:
            return UNKNOWN
        return Paces(
            preparing=median(_preparing_seconds(job) for job in latest),
            step=median(_step_seconds(job) for job in latest),
            frame=median(_frame_seconds(job) for job in self._decoded_as(recipe)),
            computed=self._computed_share(recipe),
        )

    def _decoded_as(self, recipe: Recipe) -> Sequence[Job]:
        """The latest jobs whose frames are decoded as those of ``recipe``; all of the latest where there are none."""
        alike = [job for job in self.whole if job.request.decoding == recipe.decoding]
        return (alike or self.whole)[:LATEST]

    def _computed_share(self, recipe: Recipe) -> float | None:
        """Of steps under the step cache that ``recipe`` asks for; None where no job had it."""
        if recipe.step_cache is None:
            return 1.0
        alike = [job for job in self.whole if job.request.step_cache == recipe.step_cache][:LATEST]
        return median(job.progress.totals.steps_computed / _steps(job) for job in alike) if alike else None

    def _loading_seconds(self) -> float:
        """As it was the last time; 0 when there was none."""
        took = (job.progress.seconds_loading for job in self.finished)
        return next((seconds for seconds in took if seconds > LOADING_SECONDS), 0.0)


class Estimates:
    """What the jobs of a queue teach. What cannot be read of them or of a checkpoint costs the answer, and no more."""

    def __init__(self, jobs: Callable[[], Iterable[Job]], checkpoint: Callable[[str], Checkpoint | None]) -> None:
        """``jobs``: those of now; ``checkpoint``: of a source, the chosen one of an empty one."""
        self._jobs, self._checkpoint = jobs, checkpoint

    def seconds(self, recipe: Recipe, source: str) -> float | None:
        """See ``Experience.seconds``."""
        return self._learnt(source, lambda learnt: learnt.seconds(recipe), None)

    def seconds_of(self, job: Job, loaded: str) -> float | None:
        """See ``Experience.seconds_of``. A training tells its time itself, once it has measured a step."""
        if job.order:
            return None
        return self._learnt(job.checkpoint, lambda learnt: learnt.seconds_of(job, loaded), None)

    def paces(self, recipe: Recipe, source: str) -> Paces:
        """See ``Experience.paces``."""
        return self._learnt(source, lambda learnt: learnt.paces(recipe), UNKNOWN)

    def _learnt(self, source: str, asked: Callable[[Experience], T], unknown: T) -> T:
        try:
            checkpoint = self._checkpoint(source)
            return asked(Experience.of(self._jobs(), checkpoint.name if checkpoint else ""))
        except Exception:
            log.exception("no estimate for the checkpoint %s", source)
            return unknown


def _was_whole(job: Job) -> bool:
    return bool(job.progress.totals.steps_computed) and _steps(job) == job.request.steps * job.progress.sections


def _steps(job: Job) -> int:
    return job.progress.totals.steps_computed + job.progress.totals.steps_reused


def _work(job: Job) -> Work:
    return Work.of(job.request, job.progress.width * job.progress.height)


def _preparing_seconds(job: Job) -> float:
    progress = job.progress.totals
    return max(progress.seconds_total - progress.seconds_sampling - progress.seconds_decoding, 0.0)


def _step_seconds(job: Job) -> float:
    return job.progress.totals.seconds_sampling / (job.progress.totals.steps_computed * _work(job).step_size)


def _frame_seconds(job: Job) -> float:
    work = _work(job)
    return job.progress.totals.seconds_decoding / (sum(work.clips) * work.frame_size)


def _pixels(size: str | None) -> int | None:
    if size is None:
        return None
    width, height = size.split("x")
    return int(width) * int(height)
