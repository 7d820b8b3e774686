"""The result as it grows: a video of which each section makes final a part, or a picture that is there at once."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from .media.metadata import as_comment
from .media.segments import Segments
from .request.output import Video
from .sections.plan import SectionPlan, VideoPlan
from .vae.codec import to_frames
from .vae.stitch import Stitcher
from .workfolder import WorkFolder


class GrowingResult(Protocol):
    """What becomes of the clips of a run, in its work folder."""

    def first_to_decode(self, sections_saved: int) -> int:
        """The section from which on clips are needed after a break."""

    def add(self, section: SectionPlan, clip: Tensor) -> Path:
        """Take in the clip of ``section``, [1, 3, F, height, width]; returns what there is to look at so far."""

    def finish(self) -> Path:
        """Put the result at its place and clear the work folder."""


def growing_result(folder: WorkFolder, plan: VideoPlan) -> GrowingResult:
    """The result of a run by its request's output."""
    output = folder.request.output
    return GrowingVideo(folder, plan, output) if isinstance(output, Video) else LastFrame(folder)


class LastFrame:
    """The picture of one run: the last frame of its newest clip."""

    def __init__(self, folder: WorkFolder) -> None:
        self._folder = folder

    def first_to_decode(self, sections_saved: int) -> int:
        """The last saved section, whose clip the picture is."""
        return max(sections_saved - 1, 0)

    def add(self, section: SectionPlan, clip: Tensor) -> Path:
        """See ``GrowingResult``."""
        return self._folder.save_picture(to_frames(clip)[-1])

    def finish(self) -> Path:
        """See ``GrowingResult``."""
        return self._folder.finish(self._folder.copy_picture)


class GrowingVideo:
    """The video of one run: each clip blended in, the frames that became final encoded once, all joined for a look."""

    def __init__(self, folder: WorkFolder, plan: VideoPlan, output: Video) -> None:
        self._folder, self._plan = folder, plan
        comment = as_comment(folder.metadata())
        self._segments = Segments(folder.path, folder.request.fps, output, plan.grows_at_front, comment)
        self._stitcher = Stitcher(plan.overlap_frames, plan.grows_at_front, plan.fade_frames)

    def first_to_decode(self, sections_saved: int) -> int:
        """The section from which on clips are needed after a break.

        A clip is blended only with its predecessor's newest frames, which no earlier clip reaches; so the last saved
        section must be decoded again, and those before it only where their frames were not encoded yet.
        """
        encoded = 0
        while encoded < sections_saved and self._segments.has(encoded):
            encoded += 1
        return max(min(encoded, sections_saved) - 1, 0)

    def add(self, section: SectionPlan, clip: Tensor) -> Path:
        """Blend in the clip of ``section``, [1, 3, F, height, width]; returns the playable video so far."""
        settled = self._stitcher.add(clip, is_last=section is self._plan.sections[-1])
        if not self._segments.has(section.number):
            self._segments.save(section.number, to_frames(settled))
        tail = None if self._stitcher.tail is None else to_frames(self._stitcher.tail)
        return self._segments.join(self._folder.video, section.number + 1, tail)

    def finish(self) -> Path:
        """Write the video at its place and clear the work folder."""
        return self._folder.finish(lambda result: self._segments.finish(result, len(self._plan.sections)))
