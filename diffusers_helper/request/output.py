"""What file a recipe makes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ..options import Option
from ..sections.plan import Result


class Output(Option):
    """A kind of file. ``result``: what is in it; ``suffix``: how its name ends."""

    result: ClassVar[Result]
    suffix: ClassVar[str]


class Mp4(Output):
    """A video that every player shows."""

    name: ClassVar[str] = "mp4"
    result: ClassVar[Result] = "video"
    suffix: ClassVar[str] = ".mp4"

    crf: int = Field(default=16, ge=0, le=100, description="video compression; lower is larger and better")


class Png(Output):
    """One picture, without loss."""

    name: ClassVar[str] = "png"
    result: ClassVar[Result] = "picture"
    suffix: ClassVar[str] = ".png"


OUTPUTS: dict[str, type[Output]] = {made.name: made for made in (Mp4, Png)}


def output_of(result: Result) -> Output:
    """The usual file for a result."""
    return next(made() for made in OUTPUTS.values() if made.result == result)
