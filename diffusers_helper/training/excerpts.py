"""Which frames of a video are learnt: musubi's ways to take excerpts out of it. Numbers alone."""

from __future__ import annotations

from collections.abc import Iterator

from .dataset import DataSet

FPS = 30
"""Of FramePack's videos."""


def kept_frames(count: int, source_fps: float | None) -> list[int]:
    """The numbers of the frames that are left of a faster video at 30 a second; none is made up for a slower one."""
    if source_fps is None or source_fps <= FPS:
        return list(range(count))
    times = [int(number * FPS / source_fps) for number in range(count)]
    return [number for number in range(count) if number == 0 or times[number] != times[number - 1]]


def excerpts(count: int, data_set: DataSet) -> list[tuple[int, int]]:
    """(first, end) of each excerpt of a video of so many frames; one that it is too short for is left out."""
    if data_set.frame_extraction == "full":
        return [(0, min(count, data_set.max_frames or count))]
    if data_set.target_frames is None:
        return [(0, count)]
    fitting = [length for length in data_set.target_frames if length <= count]
    return [(first, first + length) for length in fitting for first in _beginnings(count, length, data_set)]


def _beginnings(count: int, length: int, data_set: DataSet) -> Iterator[int]:
    last = count - length
    match data_set.frame_extraction:
        case "chunk":
            yield from range(0, last + 1, length)
        case "slide":
            yield from range(0, last + 1, data_set.frame_stride)
        case "uniform":
            steps = max(data_set.frame_sample - 1, 1)
            yield from (number * last // steps for number in range(data_set.frame_sample))
        case _:
            yield 0
