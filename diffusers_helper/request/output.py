"""What file a recipe makes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ..options import Option
from ..sections.plan import Result

FINE_CRF = 16
"""Of the video so far, where the file is another one."""
Shown = Literal["film", "picture", "still"]


class Output(Option):
    """A kind of file.

    Attributes:
        result: what is in it.
        suffix: how its name ends.
        media_type: what a browser is told that it is.
        shown: how the page shows it: as a film, as a picture, which may move, or by a still of it.
    """

    result: ClassVar[Result]
    suffix: ClassVar[str]
    media_type: ClassVar[str]
    shown: ClassVar[Shown]


class Video(Output):
    """A video, or pictures that are one."""

    result: ClassVar[Result] = "video"

    @property
    def is_joined(self) -> bool:
        """Whether it is made of the segments of the video so far. Else it is written once, from masters."""
        return False

    @property
    def segments_crf(self) -> int:
        """Of the video so far."""
        return FINE_CRF


class Mp4(Video):
    """A video that every player shows, in its usual pixels: H.264."""

    name: ClassVar[str] = "mp4"
    suffix: ClassVar[str] = ".mp4"
    media_type: ClassVar[str] = "video/mp4"
    shown: ClassVar[Shown] = "film"

    crf: int = Field(default=FINE_CRF, ge=0, le=100, description="compression of an MP4; lower is larger and better")
    pixels: Literal["8bit", "10bit", "444"] = Field(
        default="8bit", description="8bit plays everywhere; 10bit and 444 keep more, for editing"
    )

    @property
    def is_joined(self) -> bool:
        """See ``Video``."""
        return self.pixels == "8bit"

    @property
    def segments_crf(self) -> int:
        """See ``Video``."""
        return self.crf if self.is_joined else FINE_CRF


class Webm(Video):
    """A smaller video for browsers."""

    name: ClassVar[str] = "webm"
    suffix: ClassVar[str] = ".webm"
    media_type: ClassVar[str] = "video/webm"
    shown: ClassVar[Shown] = "film"

    codec: Literal["vp9", "vp9_444", "av1", "av1_10bit"] = Field(
        default="vp9", description="av1 is smaller than vp9, which older devices show too"
    )
    crf: int = Field(default=20, ge=1, le=63, description="compression of a WebM; lower is larger and better")


class Gif(Video):
    """A picture that moves, in 256 colours, for places that take no video."""

    name: ClassVar[str] = "gif"
    suffix: ClassVar[str] = ".gif"
    media_type: ClassVar[str] = "image/gif"
    shown: ClassVar[Shown] = "picture"


class Webp(Video):
    """A picture that moves, in all colours."""

    name: ClassVar[str] = "webp"
    suffix: ClassVar[str] = ".webp"
    media_type: ClassVar[str] = "image/webp"
    shown: ClassVar[Shown] = "picture"

    quality: int = Field(default=85, ge=0, le=100, description="quality of a WebP; higher is larger and better")
    lossless: bool = Field(default=False, description="every pixel of a WebP as it was made; much larger")


class Frames(Video):
    """Every frame as a PNG, without loss, in one ZIP archive."""

    name: ClassVar[str] = "frames"
    suffix: ClassVar[str] = ".zip"
    media_type: ClassVar[str] = "application/zip"
    shown: ClassVar[Shown] = "still"


class Png(Output):
    """One picture, without loss."""

    name: ClassVar[str] = "png"
    result: ClassVar[Result] = "picture"
    suffix: ClassVar[str] = ".png"
    media_type: ClassVar[str] = "image/png"
    shown: ClassVar[Shown] = "picture"


OUTPUTS: dict[str, type[Output]] = {made.name: made for made in (Mp4, Webm, Gif, Webp, Frames, Png)}


def output_of(result: Result) -> Output:
    """The usual file for a result."""
    return next(made() for made in OUTPUTS.values() if made.result == result)


def output_by_suffix(suffix: str) -> type[Output] | None:
    """The kind of file whose names end so, in whatever case; None where there is none."""
    return next((made for made in OUTPUTS.values() if made.suffix == suffix.lower()), None)
