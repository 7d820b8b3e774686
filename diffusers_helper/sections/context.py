"""Context plans: for one section, which latents stand at which time index. Pure data.

A plan has three context levels: clean frames as they are, frames that the transformer averages down 2x, and 4x. Every
frame names its time index and where its latent comes from. The three kinds of sampling differ in their plans only:

* I2V (inverted anti-drifting): the end of the video is made first; the context lies *after* the section.
* F1 (forward): the context lies *before* the section.
* one frame: a single picture at a chosen time index, with control pictures as clean context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

FRAMES_2X = 2
FRAMES_4X = 16


class Source(Enum):
    """Where the latent of a context frame comes from."""

    PICTURE = "the n-th picture of the request"
    AFTER = "the n-th frame of the history, counted from its front: what follows the section"
    BEFORE = "the n-th frame of the history, counted from its back: what precedes the section"
    ZERO = "nothing: a zero latent"


@dataclass(frozen=True)
class ContextFrame:
    """A latent at a time index. A history too short to hold the ``n``-th frame gives a zero latent."""

    index: int
    source: Source
    n: int = 0


Level = tuple[ContextFrame, ...]


@dataclass(frozen=True)
class ContextPlan:
    """The time indices of the frames to be made, and the context. A level of None has no tokens at all."""

    target: tuple[int, ...]
    clean: Level | None
    clean_2x: Level | None
    clean_4x: Level | None


def i2v_context(window: int, padding: int, start: int = 0) -> ContextPlan:
    """The plan of a section that lies ``padding`` windows after the start picture, which is number ``start``.

    Time axis: start picture at 0, a gap of ``padding`` windows, the section, then 1 clean, 2 2x and 16 4x frames.
    """
    first = 1 + padding * window
    after = first + window
    return ContextPlan(
        target=tuple(range(first, after)),
        clean=(ContextFrame(0, Source.PICTURE, start), ContextFrame(after, Source.AFTER, 0)),
        clean_2x=_run(after + 1, Source.AFTER, range(1, 1 + FRAMES_2X)),
        clean_4x=_run(after + 1 + FRAMES_2X, Source.AFTER, range(1 + FRAMES_2X, 1 + FRAMES_2X + FRAMES_4X)),
    )


def f1_context(window: int, start: int = 0) -> ContextPlan:
    """The plan of every F1 section.

    Time axis: the start picture, number ``start``, at 0, then 16 4x, 2 2x and 1 clean frame, then the section.
    """
    nearest = FRAMES_4X + FRAMES_2X + 1
    return ContextPlan(
        target=tuple(range(nearest + 1, nearest + 1 + window)),
        clean=(ContextFrame(0, Source.PICTURE, start), ContextFrame(nearest, Source.BEFORE, 0)),
        clean_2x=_run(1 + FRAMES_4X, Source.BEFORE, range(FRAMES_2X, 0, -1)),
        clean_4x=_run(1, Source.BEFORE, range(FRAMES_4X + FRAMES_2X, FRAMES_2X, -1)),
    )


def one_frame_context(
    target: int,
    controls: Mapping[int, int],
    window: int = 9,
    *,
    post: bool = True,
    history_2x: bool = True,
    history_4x: bool = True,
) -> ContextPlan:
    """The plan of a single picture at time ``target`` with control pictures.

    Args:
        controls: of each control picture, by its number, the time index.
        post: stand a zero latent behind the section, where a video would go on.
        history_2x, history_4x: stand zero latents there too; absent levels save their tokens.
    """
    clean = tuple(ContextFrame(index, Source.PICTURE, n) for n, index in controls.items())
    after = window + 1
    if post:
        clean += (ContextFrame(after, Source.ZERO),)
    return ContextPlan(
        target=(target,),
        clean=clean or None,
        clean_2x=_run(after + 1, Source.ZERO, range(FRAMES_2X)) if history_2x else None,
        clean_4x=_run(after + 1 + FRAMES_2X, Source.ZERO, range(FRAMES_4X)) if history_4x else None,
    )


def _run(first_index: int, source: Source, numbers: Sequence[int]) -> Level:
    """Consecutive time indices from ``first_index`` on, one per number."""
    return tuple(ContextFrame(first_index + k, source, n) for k, n in enumerate(numbers))
