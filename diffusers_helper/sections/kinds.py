"""The kinds of result: what each takes, and how it plans its sections. A new kind is a class and a line in KINDS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Protocol

from pydantic import Field

from ..limits import DecodingName
from ..options import Option
from ..words import Message
from .context import f1_context, i2v_context, one_frame_context
from .plan import Result, SectionPlan, VideoPlan, overlap_latents, video_frames

START, MEAN, CONTROL = "start", "mean", "control_"
"""What the image encoder can see of a picture's inputs; the last with the number of a control picture."""
Role = Literal["start", "end", "key", "control"]
"""What a picture is for: the first frame, the last one, one in between, or something to look at."""


class Timed(Protocol):
    """Something that holds from a second of the video on."""

    @property
    def from_second(self) -> float: ...


class Asked(Protocol):
    """What of a recipe a plan depends on."""

    @property
    def seconds(self) -> float: ...
    @property
    def latent_window(self) -> int: ...
    @property
    def fps(self) -> int: ...
    @property
    def prompts(self) -> Sequence[Timed]: ...
    @property
    def decoding(self) -> DecodingName: ...


class Placed(Protocol):
    """What of a picture a plan depends on."""

    @property
    def role(self) -> Role: ...


class Kind(Option):
    """How sections follow each other, and what they see.

    Attributes:
        result: what it makes.
        needs: the roles of pictures without which it cannot begin.
        takes: all the roles that it has a use for.
        takes_video: whether it can go on from a video.
        asks: of a checkpoint that does not make it, why.
    """

    result: ClassVar[Result] = "video"
    needs: ClassVar[frozenset[Role]] = frozenset({"start"})
    takes: ClassVar[frozenset[Role]] = frozenset({"start"})
    takes_video: ClassVar[bool] = False
    asks: ClassVar[Message | None] = None

    def misfits(self, pictures: Sequence[Placed]) -> Iterator[tuple[str, Message]]:
        """Of its parameters those that do not fit the pictures, by name, and why. Without ``pictures``, those are meant
        that the kind needs."""
        yield from ()

    def plan(self, asked: Asked, pictures: Sequence[Placed]) -> VideoPlan:
        """The sections of what is asked for. Without ``pictures``, those are meant that the kind needs."""
        raise NotImplementedError


class FramePack(Kind):
    """Inverted anti-drifting: the end is made first, and the start latent joins the history with the last section."""

    name: ClassVar[str] = "framepack"

    def plan(self, asked: Asked, pictures: Sequence[Placed]) -> VideoPlan:
        """See ``Kind``."""
        start, window = _first("start", pictures), asked.latent_window
        paddings = padding_schedule(section_count(asked.seconds, window, asked.fps))
        again = overlap_latents(asked.decoding, window)
        sections = tuple(_i2v_section(number, padding, window, again, start) for number, padding in enumerate(paddings))
        return in_time(VideoPlan(window, sections, grows_at_front=True, decoding=asked.decoding), asked)


class F1(Kind):
    """Forward: the start latent stands in the history from the beginning."""

    name: ClassVar[str] = "f1"

    def plan(self, asked: Asked, pictures: Sequence[Placed]) -> VideoPlan:
        """See ``Kind``."""
        start, window = _first("start", pictures), asked.latent_window
        numbers = range(section_count(asked.seconds, window, asked.fps))
        again = overlap_latents(asked.decoding, window)
        sections = tuple(_f1_section(number, window, again, start) for number in numbers)
        return in_time(VideoPlan(window, sections, begins_with=start, decoding=asked.decoding), asked)


class OneFrame(Kind):
    """A single picture at a chosen time index, with control pictures as clean context."""

    name: ClassVar[str] = "one_frame"
    result: ClassVar[Result] = "picture"
    needs: ClassVar[frozenset[Role]] = frozenset({"control"})
    takes: ClassVar[frozenset[Role]] = frozenset({"start", "control"})

    asks: ClassVar[Message | None] = Message("one_frame.checkpoint")

    target_index: int = Field(default=9, ge=0, le=64, description="time index of the picture that is made")
    control_index: str = Field(
        default="0",
        pattern=r"^[0-9]{1,3}(;[0-9]{1,3}){0,99}$",
        description="time indices of the control pictures in their order, whole numbers with semicolons between",
    )
    post: bool = Field(default=True, description="a zero latent stands where a video would go on")
    history_2x: bool = Field(default=True, description="zero latents stand there too, as 2x context")
    history_4x: bool = Field(default=True, description="zero latents stand there too, as 4x context")
    embedding: str = Field(
        default=START,
        pattern=rf"^({START}|{MEAN}|{CONTROL}[1-9][0-9]?)$",
        description="which picture the image encoder sees: start, the start picture, else the first control picture; "
        "control_2, the second one; mean, all of them",
    )

    @property
    def control_indices(self) -> tuple[int, ...]:
        """The same as numbers."""
        return tuple(map(int, self.control_index.split(";")))

    def misfits(self, pictures: Sequence[Placed]) -> Iterator[tuple[str, Message]]:
        """See ``Kind``."""
        places = len(self.control_indices)
        given = len(_numbers("control", pictures)) or places
        if given != places:
            yield "control_index", Message("one_frame.places", pictures=given, places=places, given=self.control_index)
        if self._number_seen >= given:
            yield "embedding", Message("one_frame.no_such_picture", number=self._number_seen + 1, pictures=given)

    @property
    def _number_seen(self) -> int:
        """Of the control picture that the image encoder sees, from 0."""
        return int(self.embedding.removeprefix(CONTROL)) - 1 if self.embedding.startswith(CONTROL) else 0

    def plan(self, asked: Asked, pictures: Sequence[Placed]) -> VideoPlan:
        """See ``Kind``."""
        controls = _numbers("control", pictures) or tuple(range(len(self.control_indices)))
        context = one_frame_context(
            self.target_index,
            dict(zip(controls, self.control_indices, strict=False)),
            asked.latent_window,
            post=self.post,
            history_2x=self.history_2x,
            history_4x=self.history_4x,
        )
        seen = self._seen(_numbers("start", pictures), controls)
        section = SectionPlan(0, context, latents_after=1, decode_frames=1, frames_after=video_frames(1), seen=seen)
        return VideoPlan(asked.latent_window, (section,), result=self.result, decoding=asked.decoding)

    def _seen(self, starts: tuple[int, ...], controls: tuple[int, ...]) -> tuple[int, ...]:
        """The numbers of the pictures that the image encoder sees."""
        if self.embedding.startswith(CONTROL):
            return (controls[min(self._number_seen, len(controls) - 1)],)
        return (*starts, *controls) if self.embedding == MEAN else (*starts, *controls)[:1]


KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (FramePack, F1, OneFrame)}


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


def in_time(plan: VideoPlan, asked: Asked) -> VideoPlan:
    """The plan, each section with its place, and with the prompt that holds at its middle: a prompt begins at the
    nearest section."""
    starts = [prompt.from_second * asked.fps for prompt in asked.prompts]
    before, sections, last = 0, [], max(len(plan.sections) - 1, 1)
    for section in plan.sections:
        middle = (before + section.frames_after) / 2
        at = plan.frames - middle if plan.grows_at_front else middle
        held = sum(start <= at for start in starts)
        earlier = len(plan.sections) - 1 - section.number if plan.grows_at_front else section.number
        sections.append(replace(section, prompt=max(held - 1, 0), place=earlier / last))
        before = section.frames_after
    return replace(plan, sections=tuple(sections))


def _numbers(role: Role, pictures: Sequence[Placed]) -> tuple[int, ...]:
    """The numbers of the pictures of that role."""
    return tuple(n for n, picture in enumerate(pictures) if picture.role == role)


def _first(role: Role, pictures: Sequence[Placed]) -> int:
    """The number of the first picture of that role."""
    return next(iter(_numbers(role, pictures)), 0)


def _i2v_section(number: int, padding: int, window: int, again: int, start: int) -> SectionPlan:
    is_last = padding == 0
    latents_after = window * (number + 1) + (1 if is_last else 0)
    return SectionPlan(
        number=number,
        context=i2v_context(window, padding, start),
        latents_after=latents_after,
        decode_frames=min(latents_after, window + again + (1 if is_last else 0)),
        frames_after=video_frames(latents_after),
        seen=(start,),
        prepends=start if is_last else None,
    )


def _f1_section(number: int, window: int, again: int, start: int) -> SectionPlan:
    latents_after = window * (number + 1) + 1
    return SectionPlan(
        number=number,
        context=f1_context(window, start),
        latents_after=latents_after,
        decode_frames=min(latents_after, window + again),
        frames_after=video_frames(latents_after),
        seen=(start,),
    )
