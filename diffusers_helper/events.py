"""What a running generation says: small, typed, JSON-able. Pictures and videos travel as paths.

The iterator that ``generate`` returns yields ``Started``, ``Plan``, then per section ``Step`` and ``Preview``, one
``Decoding`` and one ``SectionDone``, ``Notice`` at any time, and ends with exactly one ``Finished``, ``Failed`` or
``Cancelled``.
A download says ``Downloading`` and ``Notice``, and ``Downloaded`` at its end.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened; ``event`` is its name on the wire."""

    event: ClassVar[str]

    def as_dict(self) -> dict[str, Any]:
        return {"event": self.event, **asdict(self)}

    def to_json(self) -> str:
        """One line of ASCII, whatever characters are in it."""
        return json.dumps(self.as_dict())


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The job has a folder; ``folder`` is what ``--resume`` takes."""

    event: ClassVar[str] = "started"
    folder: str
    seed: int
    sections_done: int


@dataclass(frozen=True, kw_only=True)
class Timed(Event):
    """What tells the time. ``fraction``: of the whole video's time, from 0 to 1; None as long as nothing is known."""

    seconds_left: float | None = None
    fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan(Timed):
    """What will come, known before any model runs. ``memory``: where the weights go, in one sentence."""

    event: ClassVar[str] = "plan"
    checkpoint: str
    kind: str
    sections: int
    steps: int
    frames: int
    fps: int
    seconds: float
    width: int
    height: int
    memory: str = ""


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """Something worth knowing that changes no result by itself, in plain words."""

    event: ClassVar[str] = "notice"
    message: str


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
    path: str


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
    path: str


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """What the last event carries, however the job ended. ``path`` is None when no section was finished."""

    path: str | None = None
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
    error: str
    exit_code: int
    folder: str | None
    gpu_lost: bool = False


@dataclass(frozen=True, kw_only=True)
class Cancelled(Ended):
    """The user stopped the job; the finished sections are at ``path``, and ``folder`` can be resumed."""

    event: ClassVar[str] = "cancelled"
    folder: str


@dataclass(frozen=True, kw_only=True)
class Downloading(Event):
    """So many bytes of what was missing of a checkpoint are here; ``file`` is the one under way."""

    event: ClassVar[str] = "downloading"
    checkpoint: str
    file: str
    bytes_done: int
    bytes_total: int
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class Downloaded(Event):
    """The checkpoint is complete, in ``folder``."""

    event: ClassVar[str] = "downloaded"
    checkpoint: str
    folder: str


Events = Generator[Event, None, None]
"""A generation or a download under way. It holds files and memory until it ends: who breaks it off, closes it."""
