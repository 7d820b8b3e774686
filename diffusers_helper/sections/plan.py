"""The sections of a whole video: how many, in which order, what each sees and adds. Known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .context import ContextPlan, f1_context, i2v_context

Kind = Literal["framepack", "f1"]


def video_frames(latent_frames: int) -> int:
    """L latent frames decode to 4 L - 3 video frames."""
    return 4 * latent_frames - 3


def section_count(seconds: float, window: int, fps: int = 30) -> int:
    """Sections for a wished length; a section adds 4 ``window`` video frames. Rounds half to even, at least 1."""
    return max(round(seconds * fps / (4 * window)), 1)


def padding_schedule(sections: int) -> tuple[int, ...]:
    """The gap between start picture and section, in windows, per I2V section in the order of making.

    Long videos do not count down from the true distance: the model was trained on gaps of up to 3 windows.
    """
    if sections <= 4:
        return tuple(reversed(range(sections)))
    return (3, *([2] * (sections - 3)), 1, 0)


@dataclass(frozen=True)
class SectionPlan:
    """One section, in the order of making.

    Attributes:
        number: from 0 on.
        context: what the transformer sees.
        prepend_start: the start latent is put in front of the result (the I2V section next to the start picture).
        latents_after: length of the history when the section is done.
        decode_frames: how many latent frames of the history are decoded, at its front (I2V) or back (F1).
        frames_after: length of the video when the section is done.
    """

    number: int
    context: ContextPlan
    prepend_start: bool
    latents_after: int
    decode_frames: int
    frames_after: int


@dataclass(frozen=True)
class VideoPlan:
    """All sections of a video. ``grows_at_front`` tells where new frames go: True for I2V, False for F1."""

    kind: Kind
    window: int
    sections: tuple[SectionPlan, ...]

    @property
    def grows_at_front(self) -> bool:
        return self.kind == "framepack"

    @property
    def overlap_frames(self) -> int:
        """Video frames over which a new clip is blended with the video so far."""
        return video_frames(self.window)

    @property
    def frames(self) -> int:
        return self.sections[-1].frames_after


def plan_video(kind: Kind, seconds: float, window: int, fps: int = 30) -> VideoPlan:
    """The sections of a video of about ``seconds`` seconds."""
    count = section_count(seconds, window, fps)
    make = _i2v_sections if kind == "framepack" else _f1_sections
    return VideoPlan(kind, window, make(count, window))


def _i2v_sections(count: int, window: int) -> tuple[SectionPlan, ...]:
    """The start latent joins the history with the last section."""
    paddings = padding_schedule(count)
    return tuple(_i2v_section(number, padding, window) for number, padding in enumerate(paddings))


def _i2v_section(number: int, padding: int, window: int) -> SectionPlan:
    is_last = padding == 0
    latents_after = window * (number + 1) + (1 if is_last else 0)
    return SectionPlan(
        number=number,
        context=i2v_context(window, padding),
        prepend_start=is_last,
        latents_after=latents_after,
        decode_frames=min(latents_after, 2 * window + (1 if is_last else 0)),
        frames_after=video_frames(latents_after),
    )


def _f1_sections(count: int, window: int) -> tuple[SectionPlan, ...]:
    """The start latent stands in the history from the beginning."""
    return tuple(_f1_section(number, window) for number in range(count))


def _f1_section(number: int, window: int) -> SectionPlan:
    latents_after = window * (number + 1) + 1
    return SectionPlan(
        number=number,
        context=f1_context(window),
        prepend_start=False,
        latents_after=latents_after,
        decode_frames=min(latents_after, 2 * window),
        frames_after=video_frames(latents_after),
    )
