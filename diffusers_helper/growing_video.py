"""The video as it grows: each clip blended in, the frames that became final encoded once, all joined for a look."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .request import Request
from .sections.plan import SectionPlan, VideoPlan
from .vae.codec import to_frames
from .vae.stitch import Stitcher
from .workfolder import WorkFolder


class GrowingVideo:
    """The video of one run, in its work folder."""

    def __init__(self, folder: WorkFolder, plan: VideoPlan, request: Request, comment: str) -> None:
        self._folder, self._plan, self._comment = folder, plan, comment
        self._fps, self._crf = request.fps, request.mp4_crf
        self._stitcher = Stitcher(plan.overlap_frames, plan.grows_at_front)

    def first_to_decode(self, sections_saved: int) -> int:
        """The section from which on clips are needed after a break.

        A clip is blended only with its predecessor's newest frames, which no earlier clip reaches; so the last saved
        section must be decoded again, and those before it only where their frames were not encoded yet.
        """
        encoded = 0
        while encoded < sections_saved and self._folder.has_segment(encoded):
            encoded += 1
        return max(min(encoded, sections_saved) - 1, 0)

    def add(self, section: SectionPlan, clip: Tensor) -> Path:
        """Blend in the clip of ``section``, [1, 3, F, height, width]; returns the playable video so far."""
        settled = self._stitcher.add(clip, is_last=section is self._plan.sections[-1])
        if not self._folder.has_segment(section.number):
            self._folder.save_segment(section.number, to_frames(settled), self._fps, self._crf)
        tail = None if self._stitcher.tail is None else to_frames(self._stitcher.tail)
        return self._folder.save_video(
            section.number + 1, tail, self._plan.grows_at_front, self._fps, self._crf, self._comment
        )

    def finish(self) -> Path:
        """Join the final video at its place and clear the work folder."""
        return self._folder.finish(len(self._plan.sections), self._plan.grows_at_front, self._fps, self._comment)
