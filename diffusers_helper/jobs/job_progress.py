"""How far a job is: the latest events that it has told, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import ConfigDict, TypeAdapter

from ..events import (
    Calibrated,
    Decoding,
    Encoded,
    Ended,
    Event,
    Failed,
    Finished,
    Last,
    Learning,
    Learnt,
    Merging,
    Notice,
    Plan,
    Preview,
    Sampled,
    Saved,
    SectionDone,
    Started,
    Step,
    Timed,
    Validated,
)

Phase: TypeAlias = Literal["loading", "merging", "encoding", "sampling", "decoding", "learning"]
Curve: TypeAlias = tuple[tuple[int, float, float], ...]
"""Of some steps of a training the number, the loss, and the mean that forgets old ones."""
MOST_POINTS = 300
"""Of a curve: more than a plot has room for, and little enough to be kept with the job."""

FORM = 2
"""Of a progress as JSON; ``migrate.py`` knows the earlier one."""

MOST_SAMPLES = 100
MOST_FILES = 1000


@dataclass(frozen=True)
class JobProgress:
    """The latest events of a job, over all its runs; what a new run has not told yet, an earlier one has.

    Attributes:
        loading: a run has begun and has not told that it has ``started``.
        merging: while LoRAs are merged into the weights.
        at: where the run is; None until its first step.
        step: the latest of the run.
        computed: of the running section's steps, in order; False where the step cache served.
        section_done: the latest of the run.
        playable: the latest event that named a video.
        calibrated: what a calibration has measured.
        preview: the latest; ``previews`` counts them, since each overwrites the file of the one before.
        discarded: nothing was to be kept of what it had made.
        encoded: how much of a training's data is read, while that goes on.
        learning: the latest step of a training, over all its runs; ``curve`` the losses, every so many steps one.
        held_out: the same of files that are not learnt, the step and the loss.
        samples: what it has made to look at, the step and the file, the newest last.
        saved: the latest files of it; ``written``, all LoRAs and states that it has written, the newest last.
        seconds_left: as it was when it was told, at ``told_at`` in unix seconds.
        seconds_loading: from the job's begin to ``started``; next to nothing where the models are loaded.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    started: Started | None = None
    plan: Plan | None = None
    loading: bool = False
    merging: Merging | None = None
    at: Step | Decoding | SectionDone | None = None
    step: Step | None = None
    calibrated: Calibrated | None = None
    computed: tuple[bool, ...] = ()
    section_done: SectionDone | None = None
    playable: SectionDone | Ended | None = None
    preview: Preview | None = None
    previews: int = 0
    notices: tuple[Notice, ...] = ()
    encoded: Encoded | None = None
    learning: Learning | None = None
    curve: Curve = ()
    held_out: tuple[tuple[int, float], ...] = ()
    samples: tuple[tuple[int, str], ...] = ()
    saved: Saved | None = None
    written: tuple[str, ...] = ()
    ended: Last | None = None
    discarded: bool = False
    seconds_left: float | None = None
    told_at: float = 0.0
    seconds_loading: float = 0.0

    def to_go_on_with(self) -> JobProgress:
        """What stays true while the job waits to go on: what it has finished, not where and why it broke off."""
        away: dict[str, Any] = dict.fromkeys(("merging", "at", "step", "encoded", "ended", "seconds_left"))
        return replace(self, computed=(), notices=(), **away)

    def without_results(self) -> JobProgress:
        """When what it had made is away."""
        return replace(self, discarded=True, preview=None)

    @property
    def phase(self) -> Phase:
        """What a running job is at."""
        if self.loading or not (self.started or self.encoded or self.learning):
            return "loading"
        if self.encoded:
            return "encoding"
        if self.merging:
            return "merging"
        if self.learning:
            return "learning"
        if self.at is None:
            return "encoding"
        return "decoding" if self.is_decoding else "sampling"

    @property
    def is_decoding(self) -> bool:
        """Whether the frames of ``section`` are being made."""
        return isinstance(self.at, Decoding) or (isinstance(self.at, Step) and self.at.step == self.at.steps)

    @property
    def section(self) -> int:
        """The one it is at, counted from 1; 0 means not begun."""
        return self.at.section if self.at else 0

    @property
    def step_number(self) -> int:
        """The latest step of the section or of the training, counted from 1; 0 means not begun."""
        latest = self.step or self.learning
        return latest.step if latest else 0

    @property
    def sections_done(self) -> int:
        """How many sections are finished."""
        if self.discarded:
            return 0
        if self.section_done:
            return self.section_done.section
        return self.started.sections_done if self.started else 0

    @property
    def sections_before(self) -> int:
        """What earlier runs of the same video had finished."""
        return self.sections_done if self.loading or self.started is None else self.started.sections_done

    @property
    def folder(self) -> str | None:
        """The work folder, from which an unfinished job goes on."""
        if self.started is None or self.discarded or isinstance(self.ended, Finished):
            return None
        return self.started.folder

    @property
    def video(self) -> str | None:
        """The playable video so far, in the end the finished one."""
        return self.playable.path if self.playable and not self.discarded else None

    @property
    def lora(self) -> str | None:
        """The newest file of a training."""
        return self._written.path if self._written else None

    @property
    def lora_step(self) -> int:
        """After which step that was written."""
        return self._written.step if self._written else 0

    @property
    def _written(self) -> Saved | Learnt | None:
        told = self.ended if isinstance(self.ended, Learnt) and self.ended.path else self.saved
        return None if self.discarded else told

    @property
    def frames(self) -> int:
        """Of ``video``."""
        return self.playable.frames if self.playable and not self.discarded else 0

    @property
    def preview_path(self) -> str | None:
        """The file that every preview overwrites."""
        return self.preview.path if self.preview else None

    @property
    def seed(self) -> int | None:
        """The one that was drawn, or given; None before the start."""
        return self.started.seed if self.started else None

    @property
    def error(self) -> str | None:
        """Why the job failed."""
        return self.ended.error if isinstance(self.ended, Failed) else None

    @property
    def checkpoint(self) -> str:
        """The name of the one that makes the video; empty before the plan, as all below is empty or 0."""
        return self.plan.checkpoint if self.plan else ""

    @property
    def sections(self) -> int:
        return self.plan.sections if self.plan else 0

    @property
    def steps(self) -> int:
        """Per section; of a training all."""
        told = self.plan or self.learning
        return told.steps if told else 0

    @property
    def frames_planned(self) -> int:
        return self.plan.frames if self.plan else 0

    @property
    def fps(self) -> int:
        return self.plan.fps if self.plan else 0

    @property
    def seconds(self) -> float:
        """The length of the whole video."""
        return self.plan.seconds if self.plan else 0.0

    @property
    def width(self) -> int:
        return self.plan.width if self.plan else 0

    @property
    def height(self) -> int:
        return self.plan.height if self.plan else 0

    @property
    def memory(self) -> str:
        """Where the weights go, in words."""
        return self.plan.memory if self.plan else ""

    @property
    def totals(self) -> Ended:
        """What the last event said of the whole run; zeros before there was one."""
        if isinstance(self.ended, Learnt):
            return Ended(seconds_total=self.ended.seconds_total)
        return self.ended or Ended()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"form": FORM, **{name: _plain(value) for name, value in vars(self).items()}}

    @staticmethod
    def from_dict(content: dict[str, Any]) -> JobProgress:
        """The inverse of ``as_dict``. Raises UnreadableEvent, ValueError."""
        return _READER.validate_python({name: _read(value) for name, value in content.items() if name != "form"})


_READER = TypeAdapter(JobProgress)


def _plain(value: Any) -> Any:
    """A field's value as JSON has it: events as dictionaries."""
    if isinstance(value, Event):
        return value.as_dict()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _read(value: Any) -> Any:
    """The inverse of ``_plain``."""
    if isinstance(value, dict):
        return Event.from_dict(value)
    return tuple(_read(each) for each in value) if isinstance(value, list) else value


def fold(progress: JobProgress, event: Event) -> JobProgress:
    """``progress`` after ``event``."""
    if isinstance(event, Timed):
        progress = replace(progress, seconds_left=event.seconds_left)
    match event:
        case Started():
            return _begun(progress, event)
        case Merging() | Plan() | Calibrated() | Notice() | Preview():
            return _told(progress, event)
        case Step() | Decoding() | SectionDone():
            return _moved_on(progress, event)
        case Encoded() | Learning() | Validated() | Sampled() | Saved() | Learnt():
            return _learnt(progress, event)
        case Ended():
            return _ended(progress, event)
    return progress


def _begun(progress: JobProgress, event: Started) -> JobProgress:
    """Of the runs before stay the plan, the video so far and the preview."""
    return replace(
        progress.to_go_on_with(),
        started=event,
        loading=False,
        section_done=None,
        discarded=False,
        seconds_left=progress.seconds_left,
    )


def _moved_on(progress: JobProgress, event: Step | Decoding | SectionDone) -> JobProgress:
    """A section may be done while the next one is sampled: then the run is at that."""
    moved = replace(progress, at=event) if event.section >= progress.section else progress
    match event:
        case Step():
            earlier = progress.computed if event.section == progress.section else ()
            return replace(moved, step=event, computed=(*earlier, event.computed))
        case SectionDone():
            return replace(moved, section_done=event, playable=event)
    return moved


def _told(progress: JobProgress, event: Merging | Plan | Calibrated | Notice | Preview) -> JobProgress:
    match event:
        case Notice():
            return replace(progress, notices=(*progress.notices, event))
        case Preview():
            return replace(progress, preview=event, previews=progress.previews + 1)
        case Merging():
            return replace(progress, merging=event)
        case Plan():
            return replace(progress, plan=event, merging=None)
        case Calibrated():
            return replace(progress, calibrated=event)


def _ended(progress: JobProgress, event: Ended) -> JobProgress:
    playable = event if event.path else progress.playable
    preview = None if isinstance(event, Finished) else progress.preview
    return replace(progress, merging=None, ended=event, playable=playable, preview=preview, seconds_left=None)


def _learnt(progress: JobProgress, event: Encoded | Learning | Validated | Sampled | Saved | Learnt) -> JobProgress:
    """Of a run before that came further the curve stays only as far as this run begins."""
    match event:
        case Encoded():
            return replace(progress, encoded=event, loading=False)
        case Learning():
            curve = _with_point(progress.curve, event)
            return replace(progress, learning=event, curve=curve, encoded=None, loading=False)
        case Validated():
            before = (each for each in progress.held_out if each[0] < event.step)
            return replace(progress, held_out=(*before, (event.step, event.validation_loss))[-MOST_POINTS:])
        case Sampled():
            others = (each for each in progress.samples if each[1] != event.path)
            return replace(progress, samples=(*others, (event.step, event.path))[-MOST_SAMPLES:])
        case Saved():
            files = dict.fromkeys((*progress.written, event.path, event.state))
            return replace(progress, saved=event, written=tuple(files)[-MOST_FILES:])
    return replace(progress, ended=event, seconds_left=None)


def _with_point(curve: Curve, step: Learning) -> Curve:
    """The curve with this step where it is one of those that are kept."""
    before = curve if not curve or curve[-1][0] < step.step else tuple(each for each in curve if each[0] < step.step)
    apart = max(-(-step.steps // MOST_POINTS), 1)
    is_kept = not before or step.step % apart == 0 or step.step == step.steps
    return (*before, (step.step, step.loss, step.smooth)) if is_kept else before
