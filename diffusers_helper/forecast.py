"""How long a video takes: its work in steps and frames, and what a unit of each takes on this machine. Pure.

Paces come from videos that this machine has made (``jobs/estimate.py``), and from the run itself (``progress.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from .events import Ended
from .request import Recipe
from .sections.plan import video_frames

USUAL_WINDOW = 9
"""Latent frames of the section whose steps a checkpoint's ``steps_per_frame`` counts in."""

MEASURED_STEPS = 2
"""Computed steps besides the first that must be measured before it is told how much faster a step cache was."""


@dataclass(frozen=True)
class Paces:
    """What earlier videos took, in seconds; None where there was none.

    Attributes:
        preparing: from the start of a video to its first step.
        step: of a computed step, per pixel, latent frame and branch.
        frame: of a decoded frame, blended and joined to the video so far, per pixel.
        computed: the share of steps that are computed; those that a step cache serves cost next to nothing.
    """

    preparing: float = 0.0
    step: float | None = None
    frame: float | None = None
    computed: float | None = None


UNKNOWN = Paces()


@dataclass(frozen=True)
class Work:
    """What one video asks for.

    Attributes:
        steps: of each section.
        step_size: pixels times latent frames times branches of one step.
        frame_size: pixels of a frame.
        clips: the frames that are decoded after each section.
    """

    steps: int
    step_size: int
    frame_size: int
    clips: tuple[int, ...]

    @classmethod
    def of(cls, recipe: Recipe, pixels: int) -> Work:
        """The work of ``recipe`` in frames of so many pixels."""
        sections = recipe.plan().sections
        clips = tuple(video_frames(section.decode_frames) for section in sections)
        return cls(recipe.steps, pixels * recipe.latent_window * branches(recipe), pixels, clips)

    def seconds(self, paces: Paces) -> float | None:
        """All of it, as earlier videos took; None when there was none."""
        if paces.step is None or paces.frame is None:
            return None
        computed = self.steps * len(self.clips) * (1.0 if paces.computed is None else paces.computed)
        return (
            paces.preparing + computed * paces.step * self.step_size + sum(self.clips) * paces.frame * self.frame_size
        )

    def frame_per_step(self, paces: Paces, steps_per_frame: float) -> float:
        """The time of a decoded frame in computed steps: as earlier videos took, else as the checkpoint says."""
        if paces.step and paces.frame:
            return paces.frame * self.frame_size / (paces.step * self.step_size)
        return steps_per_frame * USUAL_WINDOW * self.frame_size / self.step_size


def branches(recipe: Recipe) -> int:
    """How often the transformer runs in a step."""
    return 2 if recipe.real_cfg > 1 else 1


def times_faster(ended: Ended) -> float | None:
    """How many times longer the sampling would have taken with every step computed, each in the mean time of those
    that were. None where no step was reused, or too little was measured.

    The first step pays for what is made once, and would have done so in any case.
    """
    first, computed = ended.seconds_first_step, ended.steps_computed - 1
    if not ended.steps_reused or not first or computed < MEASURED_STEPS:
        return None
    step = (ended.seconds_sampling - ended.seconds_reused - first) / computed
    return (first + (computed + ended.steps_reused) * step) / ended.seconds_sampling
