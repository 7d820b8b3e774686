"""A job: a request in the queue, its state, and what its events have told so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..events import Ended, Event, Failed, Finished, Notice, Plan, Preview, SectionDone, Started, Step
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
        computed: of the running section's steps, in order; False where the step cache served.
        preview: the file that every preview overwrites; ``previews`` counts them.
        video: the playable video so far, in the end the finished one; it has ``frames`` frames.
        folder: the work folder, from which an unfinished job goes on.
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
    computed: tuple[bool, ...] = ()
    seconds_left: float | None = None
    preview: str | None = None
    previews: int = 0
    video: str | None = None
    frames: int = 0
    notices: tuple[str, ...] = ()
    error: str | None = None
    folder: str | None = None
    seed: int | None = None
    seconds_total: float = 0.0
    seconds_sampling: float = 0.0
    seconds_decoding: float = 0.0
    steps_computed: int = 0
    steps_reused: int = 0

    def to_go_on_with(self) -> JobProgress:
        """What stays true while the job waits to go on: what it has finished, not where and why it broke off."""
        return replace(self, section=0, step=0, computed=(), seconds_left=None, notices=(), error=None)

    @property
    def phase(self) -> Phase:
        """What a running job is at."""
        if not self.started:
            return "loading"
        if not self.section:
            return "encoding"
        if self.step == self.steps and self.sections_done < self.section:
            return "decoding"
        return "sampling"


def fold(progress: JobProgress, event: Event) -> JobProgress:
    """``progress`` after ``event``."""
    for kind, change in _CHANGES.items():
        if isinstance(event, kind):
            progress = replace(progress, **change(progress, event))
    return progress


def _started(progress: JobProgress, event: Any) -> dict[str, Any]:
    same = ("folder", "seed", "sections_done")
    fresh = {"started": True, "section": 0, "step": 0, "computed": (), "notices": (), "error": None}
    return {**fresh, **{name: getattr(event, name) for name in same}}


def _planned(progress: JobProgress, event: Any) -> dict[str, Any]:
    same = ("checkpoint", "kind", "sections", "steps", "fps", "seconds", "width", "height", "memory")
    return {"frames_planned": event.frames, **{name: getattr(event, name) for name in same}}


def _noticed(progress: JobProgress, event: Any) -> dict[str, Any]:
    return {"notices": (*progress.notices, event.message)}


def _stepped(progress: JobProgress, event: Any) -> dict[str, Any]:
    earlier = progress.computed if event.section == progress.section else ()
    same = ("section", "step", "seconds_left")
    return {"computed": (*earlier, event.computed), **{name: getattr(event, name) for name in same}}


def _previewed(progress: JobProgress, event: Any) -> dict[str, Any]:
    return {"preview": event.path, "previews": progress.previews + 1}


def _section_done(progress: JobProgress, event: Any) -> dict[str, Any]:
    return {"sections_done": event.section, "video": event.path, "frames": event.frames}


def _ended(progress: JobProgress, event: Any) -> dict[str, Any]:
    figures = ("seconds_total", "seconds_sampling", "seconds_decoding", "steps_computed", "steps_reused")
    shown = {"video": event.path or progress.video, "frames": event.frames or progress.frames}
    return {"seconds_left": None, **shown, **{name: getattr(event, name) for name in figures}}


_CHANGES: dict[type[Event], Callable[[JobProgress, Any], dict[str, Any]]] = {
    Started: _started,
    Plan: _planned,
    Notice: _noticed,
    Step: _stepped,
    Preview: _previewed,
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

    @property
    def can_go_on(self) -> bool:
        """Whether there is an unfinished video to go on with."""
        folder = self.progress.folder
        return self.state in ENDED and folder is not None and Path(folder, "job.json").is_file()

    def after(self, event: Event) -> Job:
        """The job when ``event`` was told."""
        return replace(self, progress=fold(self.progress, event))

    def snapshot(self) -> dict[str, Any]:
        """What a program is told of the job."""
        shown = ("section", "sections", "step", "steps", "seconds_left", "frames", "seed", "error")
        return {
            "id": self.id,
            "state": self.state,
            "phase": self.progress.phase if self.state == "running" else None,
            **{name: getattr(self.progress, name) for name in shown},
            "notices": list(self.progress.notices),
            "stop": self.stop,
            "prompt": self.request.prompt,
            "can_go_on": self.can_go_on,
        }
