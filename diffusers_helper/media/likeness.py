"""How alike two videos are, by FFmpeg's own measures: PSNR and SSIM of the decoded frames, Y, U and V together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
from av.container import InputContainer
from av.filter import Graph
from av.video.stream import VideoStream

from ..errors import UnusableInput
from ..words import Message
from .video import probe, reading


@dataclass(frozen=True)
class Likeness:
    """``psnr``: in dB, of the mean square error over all frames; infinite where all pixels are the same.
    ``ssim``: the mean over all frames, at most 1."""

    psnr: float
    ssim: float


def likeness(one: Path, other: Path) -> Likeness:
    """Of two videos of the same size and length, decoded once, frame by frame. Raises UnusableInput."""
    _check_alike(one, other)
    errors, likes = [], []
    for frame in _compared(one, other):
        highest = 2 ** frame.format.components[0].bits - 1
        errors.append(float(frame.metadata["lavfi.psnr.mse_avg"]) / highest**2)
        likes.append(float(frame.metadata["lavfi.ssim.All"]))
    if not errors:
        raise UnusableInput(Message("video.no_frame", file=str(one)))
    mean = sum(errors) / len(errors)
    psnr = -10 * math.log10(mean) if mean else math.inf
    return Likeness(psnr, sum(likes) / len(likes))


def _check_alike(one: Path, other: Path) -> None:
    this, that = probe(one), probe(other)
    sizes = {"size": f"{this.width} × {this.height}", "other": f"{that.width} × {that.height}"}
    if (this.width, this.height) != (that.width, that.height):
        raise UnusableInput(Message("video.other_size", **sizes))
    if this.frames != that.frames:
        raise UnusableInput(Message("video.other_length", frames=this.frames, other=that.frames))


def _compared(one: Path, other: Path) -> Iterator[av.VideoFrame]:
    """The frames of ``one``, each with what the filters say of it and of the same frame of ``other``."""
    with reading(one) as (this, stream), reading(other) as (that, other_stream):
        filters = _Filters(stream, other_stream)
        for frame, twin in zip(_decoded(this, stream), _decoded(that, other_stream), strict=False):
            twin.pts, twin.time_base = frame.pts, frame.time_base
            yield from filters.told(frame, twin)
        yield from filters.told(None, None)


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """On one thread: a video may be made meanwhile."""
    stream.codec_context.thread_count = 1
    return container.decode(stream)


class _Filters:
    """Both measures, one after the other: each writes what it finds into the frame and hands it on."""

    def __init__(self, stream: VideoStream, other: VideoStream) -> None:
        self._graph = graph = Graph()  # with it what is in it goes, which does not keep it
        self._inputs = [graph.add_buffer(template=each) for each in (stream, other)]
        psnr, ssim, twice, self._end = (graph.add(name) for name in ("psnr", "ssim", "split", "buffersink"))
        self._inputs[0].link_to(psnr, 0, 0)
        self._inputs[1].link_to(twice)
        twice.link_to(psnr, 0, 1)
        psnr.link_to(ssim, 0, 0)
        twice.link_to(ssim, 1, 1)
        ssim.link_to(self._end)
        graph.configure()

    def told(self, *frames: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Hand a frame to each input, None at the end; what has come out since."""
        for place, frame in zip(self._inputs, frames, strict=True):
            place.push(frame)
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                yield cast(av.VideoFrame, self._end.pull())
