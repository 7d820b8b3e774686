"""The sections of a whole video: how many, in which order, what each sees and adds. Known before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..limits import DecodingName
from .context import ContextPlan

Result = Literal["video", "picture"]
OVERLAP_LATENTS: Mapping[DecodingName, int] = {"lean": 2, "quality": 4}
"""What is decoded again with the next section, so that it follows what came before; ``reference`` decodes a window."""
FADE_FRAMES = 4
"""Over which one clip goes over into the next. Of two clips the earlier one in time knows what came before, so it is
shown as long as it lasts; ``reference`` fades over all that is decoded again."""


def overlap_latents(decoding: DecodingName, window: int) -> int:
    """Latent frames of a section that are decoded again with the next one."""
    return min(OVERLAP_LATENTS.get(decoding, window), window)


def video_frames(latent_frames: int) -> int:
    """L latent frames decode to 4 L - 3 video frames."""
    return 4 * latent_frames - 3


@dataclass(frozen=True)
class SectionPlan:
    """One section, in the order of making. Pictures and prompts are meant by their number in the request.

    Attributes:
        number: from 0 on.
        context: what the transformer sees.
        latents_after: length of the history when the section is done.
        decode_frames: how many latent frames of the history are decoded, at its front or back.
        frames_after: length of the video when the section is done.
        prompt: the prompt that it follows.
        place: where it is among all sections in time, from 0, the first, to 1, the last.
        seen: the pictures whose image tokens it sees, as their mean.
        prepends: the picture whose latent is put in front of the result; None for none.
    """

    number: int
    context: ContextPlan
    latents_after: int
    decode_frames: int
    frames_after: int
    prompt: int = 0
    place: float = 0.0
    seen: tuple[int, ...] = (0,)
    prepends: int | None = None


@dataclass(frozen=True)
class VideoPlan:
    """All sections of a video, or of a picture.

    Attributes:
        window: latent frames per section.
        grows_at_front: whether new frames come before those that are there.
        result: what the last frames become.
        begins_with: the picture whose latent the history begins with; None for an empty one.
        extends_video: the history begins with the latents of the video that is extended.
        decoding: how its sections are decoded.
    """

    window: int
    sections: tuple[SectionPlan, ...]
    grows_at_front: bool = False
    result: Result = "video"
    begins_with: int | None = None
    extends_video: bool = False
    decoding: DecodingName = "reference"

    @property
    def overlap_frames(self) -> int:
        """Video frames that a new clip has in common with the video so far."""
        return video_frames(overlap_latents(self.decoding, self.window))

    @property
    def fade_frames(self) -> int | None:
        """Over how many of these, the last ones in time, one clip goes over into the other; None for all of them."""
        return None if self.decoding == "reference" else min(FADE_FRAMES, self.overlap_frames)

    @property
    def frames(self) -> int:
        return self.sections[-1].frames_after
