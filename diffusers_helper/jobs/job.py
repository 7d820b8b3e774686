"""A job: a request in the queue, its state, and what its events have told so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..events import Decoding, Ended, Event, Failed, Finished, Notice, Plan, Preview, SectionDone, Started, Step, Timed
from ..names import AnyText
from ..request import Request

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
Keep: TypeAlias = Literal["now", "section", "nothing"]
"""What a stop keeps: the finished sections at once, those and the running one, or nothing."""
Phase: TypeAlias = Literal["loading", "encoding", "sampling", "decoding"]

ENDED: tuple[State, ...] = ("done", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class JobProgress:
    """What a job's events say, folded together. ``section`` and ``step`` count from 1; 0 means not begun.

    Attributes:
        started: the models are loaded and the work folder is there.
        decoding: the frames of ``section`` are being made.
        computed: of the running section's steps, in order; False where the step cache served.
        seconds_left: as it was when it was told, at ``told_at`` in unix seconds.
        sections_before: what an earlier run of the same video had finished.
        preview: the file that every preview overwrites; ``previews`` counts them.
        video: the playable video so far, in the end the finished one; it has ``frames`` frames.
        folder: the work folder, from which an unfinished job goes on.
        seconds_loading: from the job's begin to the road's; next to nothing where the models are loaded.
    """

    started: bool = False
    checkpoint: str = ""
    kind: str = ""
    sections: int = 0
    steps: int = 0
    frames_planned: int = 0
    fps: int = 0
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    memory: str = ""
    section: int = 0
    step: int = 0
    sections_done: int = 0
    sections_before: int = 0
    decoding: bool = False
    computed: tuple[bool, ...] = ()
    seconds_left: float | None = None
    told_at: float = 0.0
    preview: AnyText | None = None
    previews: int = 0
    video: AnyText | None = None
    frames: int = 0
    notices: tuple[AnyText, ...] = ()
    error: AnyText | None = None
    folder: AnyText | None = None
    seed: int | None = None
    seconds_loading: float = 0.0
    seconds_total: float = 0.0
    seconds_sampling: float = 0.0
    seconds_decoding: float = 0.0
    steps_computed: int = 0
    steps_reused: int = 0

    def to_go_on_with(self) -> JobProgress:
        """What stays true while the job waits to go on: what it has finished, not where and why it broke off."""
        fresh = JobProgress(sections_before=self.sections_done)
        names = ("section", "step", "decoding", "computed", "seconds_left", "sections_before", "notices", "error")
        return replace(self, **{name: getattr(fresh, name) for name in names})

    @property
    def phase(self) -> Phase:
        """What a running job is at."""
        if not self.started:
            return "loading"
        if not self.section:
            return "encoding"
        return "decoding" if self.decoding else "sampling"


def fold(progress: JobProgress, event: Event) -> JobProgress:
    """``progress`` after ``event``."""
    for kind, change in _CHANGES.items():
        if isinstance(event, kind):
            progress = replace(progress, **change(progress, event))
    return progress


def _started(progress: JobProgress, event: Any) -> dict[str, Any]:
    same = ("folder", "seed", "sections_done")
    fresh = {"started": True, "section": 0, "step": 0, "decoding": False, "computed": (), "notices": (), "error": None}
    return {**fresh, "sections_before": event.sections_done, **{name: getattr(event, name) for name in same}}


def _planned(progress: JobProgress, event: Any) -> dict[str, Any]:
    same = ("checkpoint", "kind", "sections", "steps", "fps", "seconds", "width", "height", "memory")
    return {"frames_planned": event.frames, **{name: getattr(event, name) for name in same}}


def _noticed(progress: JobProgress, event: Any) -> dict[str, Any]:
    return {"notices": (*progress.notices, event.message)}


def _stepped(progress: JobProgress, event: Any) -> dict[str, Any]:
    earlier = progress.computed if event.section == progress.section else ()
    now = {"section": event.section, "step": event.step, "decoding": event.step == event.steps}
    return {"computed": (*earlier, event.computed), **now}


def _previewed(progress: JobProgress, event: Any) -> dict[str, Any]:
    return {"preview": event.path, "previews": progress.previews + 1}


def _timed(progress: JobProgress, event: Any) -> dict[str, Any]:
    return {"seconds_left": event.seconds_left}


def _decoding(progress: JobProgress, event: Any) -> dict[str, Any]:
    return {"section": event.section, "decoding": True}


def _section_done(progress: JobProgress, event: Any) -> dict[str, Any]:
    return {"decoding": False, "sections_done": event.section, "video": event.path, "frames": event.frames}


def _ended(progress: JobProgress, event: Any) -> dict[str, Any]:
    figures = ("seconds_total", "seconds_sampling", "seconds_decoding", "steps_computed", "steps_reused")
    shown = {"video": event.path or progress.video, "frames": event.frames or progress.frames}
    return {"seconds_left": None, **shown, **{name: getattr(event, name) for name in figures}}


_CHANGES: dict[type[Event], Callable[[JobProgress, Any], dict[str, Any]]] = {
    Started: _started,
    Plan: _planned,
    Notice: _noticed,
    Step: _stepped,
    Timed: _timed,
    Preview: _previewed,
    Decoding: _decoding,
    SectionDone: _section_done,
    Ended: _ended,
    Finished: lambda progress, event: {"folder": None, "preview": None},
    Failed: lambda progress, event: {"error": event.error},
}


@dataclass(frozen=True)
class Job:
    """One request in the queue. Times are unix seconds; the order of jobs never depends on them.

    ``place`` orders the queued jobs, and the ended ones by their end; ``stop`` is a stop that was asked for and has not
    happened yet.

    ``checkpoint`` is the source of the one it is for; an empty one, as in jobs of earlier versions, is the one that is
    chosen when the job begins, and its work folder's when it goes on. It stands beside the request, as in a work folder
    and in a video's metadata, so that a request and a preset mean the same whatever is installed.
    """

    id: int
    state: State
    request: Request
    created_at: float
    place: int = 0
    progress: JobProgress = field(default_factory=JobProgress)
    stop: Keep | None = None
    started_at: float | None = None
    ended_at: float | None = None
    checkpoint: str = ""

    @property
    def shown_at(self) -> tuple[int, int]:
        """Sorts running, queued, ended; the newest end first."""
        if self.state == "running":
            return 0, self.place
        return (1, self.place) if self.state == "queued" else (2, -self.place)

    @property
    def checkpoint_name(self) -> str:
        """What people are told; empty where it is still open."""
        return Path(self.checkpoint).name

    @property
    def can_go_on(self) -> bool:
        """Whether there is an unfinished video to go on with."""
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
        """
        if self.ready_at is None or self.started_at is None:
            return None
        told, over = self.progress, self.progress.told_at - self.started_at
        before = told.sections_before / told.sections if told.sections else 0.0
        whole = self.ready_at - self.started_at
        return before + (1 - before) * (over / whole if whole > 0 else 1.0)

    def snapshot(self) -> dict[str, Any]:
        """What a program is told of the job."""
        shown = ("section", "sections", "step", "steps", "seconds_left", "frames", "seed", "error")
        return {
            "id": self.id,
            "state": self.state,
            "checkpoint": self.checkpoint_name,
            "phase": self.progress.phase if self.state == "running" else None,
            **{name: getattr(self.progress, name) for name in shown},
            "ready_at": self.ready_at,
            "fraction": self.fraction,
            "notices": list(self.progress.notices),
            "stop": self.stop,
            "prompt": self.request.prompt,
            "can_go_on": self.can_go_on,
        }
