"""The frames of a growing video in a folder: segments of mp4 that are encoded once, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..request.output import Video
from .files import written_whole
from .formats import write_output
from .video import MASTER, Encoding, frames_in, h264, join_segments, reading, write_video


@dataclass(frozen=True)
class Footage:
    """The frames of several mp4 files, uint8 [H, W, 3] each, one after the other; can be gone through again."""

    files: Sequence[Path]

    def __iter__(self) -> Iterator[np.ndarray]:
        for file in self.files:
            with reading(file) as (container, stream):
                for frame in container.decode(stream):
                    yield frame.to_ndarray(format="rgb24")


@dataclass(frozen=True)
class Segments:
    """Segments by number, in the order of making. A section that makes no frame final has an empty one.

    Where the file is not to be joined of them, each has a *master* beside it, the same frames without loss.

    Attributes:
        comment: what the joined video and the result say of their making.
        newest_first: whether a later segment goes before the earlier ones in time.
    """

    folder: Path
    fps: int
    output: Video
    newest_first: bool
    comment: str

    def has(self, number: int) -> bool:
        """Whether a segment is there, and sound."""
        return all(map(_is_sound, self._files(number)))

    def save(self, number: int, frames: np.ndarray) -> None:
        """Encode the frames that became final with a section, uint8 [F, height, width, 3]."""
        for file, encoding in self._files(number).items():
            if len(frames):
                write_video(file, frames, self.fps, encoding)
            else:
                _write_empty(file)

    def join(self, target: Path, count: int, tail: np.ndarray | None = None) -> Path:
        """Join the first ``count`` segments, and the tail that may still change, to a playable video."""
        segments = _with_frames(map(self._segment, range(count)))
        if tail is not None:
            segments.append(self.folder / "tail.mp4")
            write_video(segments[-1], tail, self.fps, h264(self.output.segments_crf))
        join_segments(self._in_time(segments), target, self.comment, self.fps)
        return target

    def finish(self, target: Path, count: int) -> None:
        """The result of all ``count`` segments."""
        if self.output.is_joined:
            self.join(target, count)
        else:
            masters = self._in_time(_with_frames(map(self._master, range(count))))
            write_output(target, Footage(masters), self.fps, self.output, self.comment)

    def _files(self, number: int) -> dict[Path, Encoding]:
        """What a segment is kept in, and how it is encoded there."""
        masters = {} if self.output.is_joined else {self._master(number): MASTER}
        return {**masters, self._segment(number): h264(self.output.segments_crf)}

    def _segment(self, number: int) -> Path:
        return self.folder / f"segment_{number:03}.mp4"

    def _master(self, number: int) -> Path:
        return self.folder / f"master_{number:03}.mp4"

    def _in_time(self, files: list[Path]) -> list[Path]:
        return files[::-1] if self.newest_first else files


def _is_sound(file: Path) -> bool:
    return file.is_file() and (file.stat().st_size == 0 or frames_in(file) > 0)


def _with_frames(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if file.stat().st_size]


def _write_empty(file: Path) -> None:
    with written_whole(file) as part:
        part.touch()
