"""What becomes of the start picture in the video: its size, and which part of the picture is seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path

from ..media.fit import part_seen
from ..media.pictures import open_picture
from ..models.table import Checkpoint
from ..preparation import video_size
from ..words import Texts

UNCUT = 0.98
"""A share from which on nobody would call the edges cut."""


@dataclass(frozen=True)
class Framing:
    """(height, width) of the picture and of the video."""

    picture: tuple[int, int]
    video: tuple[int, int]

    @property
    def seen(self) -> tuple[float, float]:
        """The share of the picture's height and width that is in the video."""
        return part_seen(*self.picture, *self.video)

    @property
    def enlarges(self) -> bool:
        """Whether the part that is seen has fewer pixels than the video."""
        return self.picture[0] * self.seen[0] < self.video[0]

    def as_html(self, texts: Texts) -> str:
        """One line of the plan; the page's script draws ``data-seen`` over the picture."""
        height, width = self.seen
        said = [texts("generate.plan_size", width=self.video[1], height=self.video[0])]
        said += [texts("generate.plan_cut")] if min(self.seen) < UNCUT else []
        told = f'<span data-seen="{width:.4f} {height:.4f}">{escape(" · ".join(said))}</span>'
        warned = f'<span class="soft">{escape(texts("generate.plan_small"))}</span>' if self.enlarges else ""
        return told + warned


def framing_of(picture: str, size: str | None, checkpoint: Checkpoint) -> Framing:
    """How ``checkpoint`` frames the file ``picture``. Raises UnusablePicture; ValueError for no size."""
    shape = shape_of(picture)
    return Framing(shape, video_size(size, checkpoint, *shape))


def shape_of(picture: str) -> tuple[int, int]:
    """(height, width) of the file ``picture``. Raises UnusablePicture."""
    path = Path(picture)
    try:
        return _shape(picture, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        height, width = open_picture(path).shape[:2]  # says what is wrong
        return height, width


@lru_cache(maxsize=64)
def _shape(picture: str, changed_at: int) -> tuple[int, int]:
    """(height, width) of a picture, decoded once while the form is filled in."""
    height, width = open_picture(Path(picture)).shape[:2]
    return height, width
