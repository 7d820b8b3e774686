"""What a running generation says: small, typed, JSON-able. Pictures and videos travel as paths.

The iterator that ``generate`` returns yields ``Started``, where LoRAs are merged ``Merging``, ``Plan``, then per
section ``Step`` and ``Preview``, one ``Decoding`` and one ``SectionDone``, ``Notice`` at any time, ``Calibrated`` after
a calibration, and ends with exactly one ``Finished``, ``Failed`` or ``Cancelled``.
A download says ``Downloading`` and ``Notice``, and ``Downloaded`` at its end. A training says ``Encoded``,
``Learning``, ``Validated``, ``Sampling``, ``Sampled`` and ``Saved``, and ``Learnt`` at its end; one that is only
rehearsed ``Rehearsed``.

``Event.from_json`` is the inverse of ``to_json``, for whoever listens from another process.

Where an event says a sentence, it says it in English, for programs and terminals, and beside it as a message
(``said``), for whoever reads another language.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel, ValidationError

from .errors import UnreadableEvent
from .json_object import explained, object_in, strict_reader
from .names import AnyText, quoted
from .words import AnyMessage, Message


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened; ``event`` is its name on the wire."""

    event: ClassVar[str]

    def as_dict(self) -> dict[str, Any]:
        return {"event": self.event, **asdict(self)}

    def to_json(self) -> str:
        """One line of ASCII, whatever characters are in it."""
        return json.dumps(self.as_dict())

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Event:
        """The inverse of ``as_dict``. Raises UnreadableEvent, which names the event and the field."""
        values = dict(content)
        name = values.pop("event", None)
        if not isinstance(name, str) or name not in EVENTS:
            raise UnreadableEvent(f"event: {quoted(name)} is not known; known are {', '.join(EVENTS)}")
        try:
            return EVENTS[name](**dict(_reader(name).model_validate(values)))
        except ValidationError as error:
            raise UnreadableEvent("; ".join(f"{name}: {wrong}" for wrong in explained(EVENTS[name], error))) from None

    @staticmethod
    def from_json(text: str) -> Event:
        """The inverse of ``to_json``. Raises UnreadableEvent."""
        try:
            content = object_in(text)
        except ValueError as error:
            raise UnreadableEvent(f"an event {error}: {quoted(text)}") from None
        return Event.from_dict(content)


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The job has a folder; ``folder`` is what ``--resume`` takes."""

    event: ClassVar[str] = "started"
    folder: AnyText
    seed: int
    sections_done: int


@dataclass(frozen=True, kw_only=True)
class Merging(Event):
    """LoRAs are being merged into the weights; ``share`` of that is done, from 0 to 1."""

    event: ClassVar[str] = "merging"
    share: float


@dataclass(frozen=True, kw_only=True)
class Timed(Event):
    """What tells the time. ``fraction``: of the whole video's time, from 0 to 1; None as long as nothing is known, and
    of a training, whose steps say it."""

    seconds_left: float | None = None
    fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan(Timed):
    """What will come, known before any model runs. ``memory``: where the weights go, in a few sentences."""

    event: ClassVar[str] = "plan"
    checkpoint: AnyText
    kind: str
    sections: int
    steps: int
    frames: int
    fps: int
    seconds: float
    width: int
    height: int
    memory: AnyText = ""
    said: AnyMessage | None = None


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """Something worth knowing that changes no result by itself, in plain words."""

    event: ClassVar[str] = "notice"
    message: AnyText
    said: AnyMessage | None = None

    @classmethod
    def of(cls, message: Message) -> Notice:
        """The event that says ``message``."""
        return cls(message=str(message), said=message)


@dataclass(frozen=True, kw_only=True)
class Step(Timed):
    """A sampling step ended. ``section`` and ``step`` count from 1; ``computed`` is False when the cache served."""

    event: ClassVar[str] = "step"
    section: int
    sections: int
    step: int
    steps: int
    computed: bool


@dataclass(frozen=True, kw_only=True)
class Preview(Event):
    """The clean prediction of this step as a row of small frames, in a PNG that the next preview overwrites."""

    event: ClassVar[str] = "preview"
    section: int
    step: int
    path: AnyText


@dataclass(frozen=True, kw_only=True)
class Decoding(Timed):
    """A section's latents are there; its frames are being made."""

    event: ClassVar[str] = "decoding"
    section: int
    sections: int


@dataclass(frozen=True, kw_only=True)
class SectionDone(Timed):
    """A section is decoded; ``path`` is the playable video so far."""

    event: ClassVar[str] = "section_done"
    section: int
    sections: int
    frames: int
    path: AnyText


@dataclass(frozen=True, kw_only=True)
class Calibrated(Event):
    """A calibration has measured MagCache's ratios: a number per step, for each section, and their mean.

    ``kept``: later videos of ``checkpoint`` with as many steps use the mean.
    """

    event: ClassVar[str] = "calibrated"
    checkpoint: AnyText
    sections: list[list[float]]
    mean: list[float]
    kept: bool = True


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """What the last event carries, however the job ended. ``path`` is None when no section was finished.

    ``seconds_sampling`` holds ``seconds_reused``, of all steps that were reused, and ``seconds_first_step``, which pays
    for what is made once; both are 0 where they were not measured.
    """

    path: AnyText | None = None
    frames: int = 0
    fps: int = 0
    width: int = 0
    height: int = 0
    seed: int = -1
    seconds_total: float = 0.0
    seconds_sampling: float = 0.0
    seconds_decoding: float = 0.0
    steps_computed: int = 0
    steps_reused: int = 0
    seconds_reused: float = 0.0
    seconds_first_step: float = 0.0
    peak_memory_mb: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Finished(Ended):
    """The whole video is at ``path``."""

    event: ClassVar[str] = "finished"


@dataclass(frozen=True, kw_only=True)
class Failed(Ended):
    """The job ended by an error. What was finished is at ``path``; ``folder`` can be resumed, None when not begun.

    ``gpu_lost``: the GPU works for no job of this process any more.
    """

    event: ClassVar[str] = "failed"
    error: AnyText
    exit_code: int
    folder: AnyText | None
    gpu_lost: bool = False
    said: AnyMessage | None = None

    @classmethod
    def of(cls, message: Message, *, exit_code: int, folder: str | None, **totals: Any) -> Failed:
        """The event that says ``message``."""
        return cls(error=str(message), said=message, exit_code=exit_code, folder=folder, **totals)


@dataclass(frozen=True, kw_only=True)
class Cancelled(Ended):
    """The user stopped the job; the finished sections are at ``path``, and ``folder`` can be resumed."""

    event: ClassVar[str] = "cancelled"
    folder: AnyText


@dataclass(frozen=True, kw_only=True)
class Downloading(Event):
    """So many bytes of what was missing of a checkpoint are here; ``file`` is the one under way."""

    event: ClassVar[str] = "downloading"
    checkpoint: AnyText
    file: AnyText
    bytes_done: int
    bytes_total: int
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class Downloaded(Event):
    """The checkpoint is complete, in ``folder``."""

    event: ClassVar[str] = "downloaded"
    checkpoint: AnyText
    folder: AnyText


@dataclass(frozen=True, kw_only=True)
class Encoded(Event):
    """So many ``files`` of a data set are read and encoded; ``data_set`` is what it is called."""

    event: ClassVar[str] = "encoded"
    data_set: AnyText
    done: int
    files: int


@dataclass(frozen=True, kw_only=True)
class Learning(Timed):
    """A training step is done.

    Attributes:
        loss: of this step; ``smooth`` the mean that forgets old ones.
        rate: the learning rate.
        norm: the length of the gradient, before it was cut.
        seconds: that the step took.
    """

    event: ClassVar[str] = "learning"
    step: int
    steps: int
    loss: float
    smooth: float
    rate: float
    norm: float
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Validated(Event):
    """What the model gets wrong of files that are held out, at noise that is always the same; step 0 is before all.

    Attributes:
        loss: of the training lately; None before the first step of this run.
        levels, losses: the noise levels at which was measured, and the mean squared error at each.
    """

    event: ClassVar[str] = "validated"
    step: int
    steps: int
    loss: float | None
    validation_loss: float
    levels: list[float]
    losses: list[float]


@dataclass(frozen=True, kw_only=True)
class Sampling(Event):
    """A sample is made to look at: which of how many, after which step of the training, and how much of it is done,
    from 0 to 1."""

    event: ClassVar[str] = "sampling"
    step: int
    number: int
    samples: int
    done: float


@dataclass(frozen=True, kw_only=True)
class Sampled(Event):
    """A sample is there: a video or a picture that the LoRA made after so many steps."""

    event: ClassVar[str] = "sampled"
    step: int
    number: int
    samples: int
    path: AnyText


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    """A file of the training, after so many steps; ``state`` is what going on begins with."""

    event: ClassVar[str] = "saved"
    step: int
    path: AnyText
    state: AnyText


@dataclass(frozen=True, kw_only=True)
class Rehearsed(Event):
    """What a training would learn, and nothing was: examples by their ``sizes`` (width x height), ``step_seconds`` each
    step, in so many linears (``modules``) so many numbers (``parameters``), the ``memory`` plan of the largest example
    that there can be, the first ``captions``, and at ``path`` a sheet."""

    event: ClassVar[str] = "rehearsed"
    data_sets: list[AnyText]
    examples: int
    held_out: int
    sizes: dict[str, int]
    steps: int
    epochs: float
    step_seconds: float
    modules: int
    parameters: int
    memory: AnyText
    captions: list[AnyText]
    path: AnyText


@dataclass(frozen=True, kw_only=True)
class Learnt(Event):
    """A training has ended: all ``steps`` are done, or it was stopped before."""

    event: ClassVar[str] = "learnt"
    step: int
    steps: int
    path: AnyText
    seconds_total: float


Last: TypeAlias = Ended | Learnt
"""What a job ends with."""

EVENTS: Mapping[str, type[Event]] = {
    each.event: each
    for each in (
        Started, Merging, Plan, Notice, Step, Preview, Decoding, SectionDone, Calibrated, Finished, Failed, Cancelled,
        Downloading, Downloaded, Encoded, Learning, Validated, Sampling, Sampled, Saved, Rehearsed, Learnt,
    )
}  # fmt: skip
"""Every event by its name."""


@cache
def _reader(name: str) -> type[BaseModel]:
    return strict_reader(EVENTS[name])


Events = Generator[Event, None, None]
"""A generation or a download under way. It holds files and memory until it ends: who breaks it off, closes it."""
