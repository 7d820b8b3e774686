"""The sections of a whole video: how many, in which order, what each sees and adds. Known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .context import ContextPlan

Result = Literal["video", "picture"]


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
        picture: the picture whose image tokens it sees.
        prepends: the picture whose latent is put in front of the result; None for none.
    """

    number: int
    context: ContextPlan
    latents_after: int
    decode_frames: int
    frames_after: int
    prompt: int = 0
    picture: int = 0
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
    """

    window: int
    sections: tuple[SectionPlan, ...]
    grows_at_front: bool = False
    result: Result = "video"
    begins_with: int | None = None
    extends_video: bool = False

    @property
    def overlap_frames(self) -> int:
        """Video frames over which a new clip is blended with the video so far."""
        return video_frames(self.window)

    @property
    def frames(self) -> int:
        return self.sections[-1].frames_after
