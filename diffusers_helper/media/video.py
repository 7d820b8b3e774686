"""Video in mp4 and WebM: sections are encoded once, as segments of mp4, and joined by copying their packets.

Every segment begins with an IDR frame, has closed groups of pictures and is made with the same encoder settings, so
the joined stream is one that the encoder could have made in a single run. The time of a frame is its number: when
joining, the timestamps of the segments are used only for the order of display.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, cast

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from .. import faults
from ..errors import UnusableInput
from ..words import Message
from .files import written_whole
from .priority import usual_priority

Packets = Generator[tuple[int, "Packet[VideoStream]"], None, None]
"""(number of the frame, packet); a file is open meanwhile."""

REORDER_FRAMES = 2
"""How far decoding runs ahead of display: with pyramids of B-frames, two frames, as the stream's header promises."""

_X264 = {"preset": "medium", "bf": "3", "b-pyramid": "normal", "flags": "+cgop", "x264-params": "mbtree=0"}
"""Without x264's macroblock tree: with it, the AVX-512 code of the wheel's x264 makes another file of the same frames
every time, and a video that was broken off would not end in the same frames."""

IS_WEBM = b"\x1aE\xdf\xa3"
"""How a WebM file begins, and any other Matroska."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself; sizes in pixels, ``fps`` in frames per second."""

    frames: int
    fps: Fraction
    width: int
    height: int
    codec: str


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded, and in which container.

    Attributes:
        pixels: FFmpeg's name of what a pixel becomes; rgb24 leaves it as it is.
    """

    codec: str
    pixels: str
    options: Mapping[str, str]
    container: str = "mp4"
    container_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def keeps_rgb(self) -> bool:
        """Whether pixels stay as they are."""
        return self.pixels == "rgb24"


def h264(crf: int, pixels: str = "yuv420p") -> Encoding:
    """H.264 with the settings of all segments."""
    return Encoding("libx264", pixels, {**_X264, "crf": str(crf)})


MASTER = Encoding("libx264rgb", "rgb24", {"preset": "veryfast", "qp": "0"})
"""Without loss: what is decoded is what was given, bit for bit."""


def _check_frame(pixels: np.ndarray) -> None:
    """Raises ValueError unless it is uint8 [H, W, 3] with even sizes, as most encoders need."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"each frame must be uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    if pixels.shape[0] % 2 or pixels.shape[1] % 2:
        raise ValueError(f"height and width must be even, not {pixels.shape[0]}x{pixels.shape[1]}")


def _encoder(container: OutputContainer, height: int, width: int, fps: int, encoding: Encoding) -> VideoStream:
    """A stream, labelled BT.709 so that every player shows the same colours at every size."""
    stream = cast(VideoStream, container.add_stream(encoding.codec, rate=fps, options=dict(encoding.options)))
    stream.height, stream.width, stream.pix_fmt = height, width, encoding.pixels
    if not encoding.keeps_rgb:
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
    return stream


def _frame(pixels: np.ndarray, number: int, fps: int, encoding: Encoding) -> av.VideoFrame:
    """uint8 [H, W, 3] -> the frame as it is encoded, shown at ``number / fps`` seconds for one frame's time."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    if not encoding.keeps_rgb:
        colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
        frame = frame.reformat(format=encoding.pixels, **colours)
    frame.time_base, frame.pts, frame.duration = Fraction(1, fps), number, 1
    return frame


def first_of(frames: Iterable[np.ndarray]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The first frame, and all of them. Raises ValueError for none, or one that no encoder would take."""
    each = iter(frames)
    first = next(each, None)
    if first is None:
        raise ValueError("there must be at least one frame")
    _check_frame(first)
    return first, chain((first,), each)


def encode(path: Path, frames: Iterable[np.ndarray], fps: int, encoding: Encoding, comment: str = "") -> None:
    """Encodes frames, uint8 [H, W, 3] each, one after the other; holds no more of them than the encoder looks ahead.

    Raises ValueError for frames that no encoder would take, and what FFmpeg raises.
    """
    first, frames = first_of(frames)
    options = dict(encoding.container_options)
    with av.open(str(path), "w", format=encoding.container, options=options) as container:
        if comment:
            container.metadata["comment"] = comment
        stream = _encoder(container, first.shape[0], first.shape[1], fps, encoding)
        with usual_priority():
            stream.codec_context.open(strict=False)
        for number, pixels in enumerate(frames):
            container.mux(stream.encode(_frame(pixels, number, fps, encoding)))
        container.mux(stream.encode())


def write_video(path: Path, frames: np.ndarray, fps: int, encoding: Encoding) -> None:
    """Encodes uint8 [T, H, W, 3] to a file.

    Raises OutputFailed when it cannot be written, ValueError for frames that no encoder would take.
    """
    with written_whole(path) as part:
        encode(part, frames, fps, encoding)


def write_segment(path: Path, frames: np.ndarray, fps: int, crf: int) -> None:
    """``write_video`` to an mp4 file that can be joined with others of the same size, fps and crf."""
    write_video(path, frames, fps, h264(crf))


@contextmanager
def reading(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The open file, mp4 or WebM, and its video stream. Raises UnusableInput; errors of the caller's block included."""
    try:
        with path.open("rb") as file, av.open(file, "r", format=_container(file)) as container:
            if not container.streams.video:
                raise UnusableInput(Message("video.none", file=str(path)))
            yield container, container.streams.video[0]
    except (OSError, av.FFmpegError) as error:
        reason = error.strerror or str(error)
        raise UnusableInput(Message("video.not_read", file=str(path), reason=reason)) from error


def _container(file: IO[bytes]) -> str:
    """FFmpeg's name of what reads the file: no other of its many ever sees it."""
    head = file.read(len(IS_WEBM))
    file.seek(0)
    return "matroska" if head == IS_WEBM else "mp4"


def _header(path: Path) -> bytes | None:
    """The decoder's set-up for the file, the same for all segments that can follow each other."""
    with reading(path) as (_, stream):
        return stream.codec_context.extradata


def _segment_packets(segment: Path, header: bytes | None, fps: int) -> Packets:
    """(frame number in the segment, packet), in decoding order."""
    numbers = []
    with reading(segment) as (container, stream):
        if stream.codec_context.extradata != header:
            raise UnusableInput(Message("video.unlike", file=str(segment)))
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and packet.time_base is not None:
                numbers.append(round(packet.pts * packet.time_base * fps))
                yield numbers[-1], packet
    if sorted(numbers) != list(range(len(numbers))):
        raise UnusableInput(Message("video.other_rate", file=str(segment), fps=fps))


def _packets(segments: Sequence[Path], fps: int) -> Packets:
    """(frame number in the whole video, packet), in decoding order over all segments."""
    header, start = _header(segments[0]), 0
    for segment in segments:
        count = 0
        with closing(_segment_packets(segment, header, fps)) as packets:
            for number, packet in packets:
                yield start + number, packet
                count += 1
        start += count


def _copied_stream(container: OutputContainer, like: Path) -> VideoStream:
    with reading(like) as (_, stream):
        return container.add_stream_from_template(stream)


def join_segments(segments: Sequence[Path], target: Path, comment: str, fps: int) -> None:
    """Copies the packets of ``segments``, in the order given, into one mp4 file; nothing is encoded again.

    The file can be played while it loads, runs at exactly ``fps`` from time 0, and carries ``comment``.
    Raises UnusableInput for a segment that is missing, damaged or unlike the first, OutputFailed when the file cannot
    be written, ValueError when there is nothing to join.
    """
    if not segments:
        raise ValueError("there must be at least one segment to join")
    options = {"movflags": "+faststart"}
    with written_whole(target) as part, av.open(str(part), "w", format="mp4", options=options) as container:
        container.metadata["comment"] = comment
        stream = _copied_stream(container, segments[0])
        with closing(_packets(segments, fps)) as packets:
            for order, (number, packet) in enumerate(packets):
                packet.stream, packet.time_base = stream, Fraction(1, fps)
                packet.pts, packet.dts, packet.duration = number, order - REORDER_FRAMES, 1
                container.mux(packet)
        faults.passing("mux")


def read_frames(path: Path) -> np.ndarray:
    """All frames of a video as uint8 [T, H, W, 3]. For short videos: they are held in memory. Raises UnusableInput."""
    with reading(path) as (container, stream):
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    if not frames:
        raise UnusableInput(Message("video.no_frame", file=str(path)))
    return np.stack(frames)


def _length(container: InputContainer, stream: VideoStream) -> int:
    """In the stream's unit of time. A WebM says it of the whole alone."""
    if stream.duration is not None:
        return stream.duration
    seconds = Fraction(container.duration or 0, av.time_base)
    return int(seconds / stream.time_base) if stream.time_base else 0


def last_frame(path: Path) -> np.ndarray:
    """The frame shown last, uint8 [H, W, 3]; decodes from the last key frame on. Raises UnusableInput."""
    with reading(path) as (container, stream):
        container.seek(_length(container, stream), stream=stream)
        frames = deque(container.decode(stream), maxlen=1)
        if not frames:
            raise UnusableInput(Message("video.no_frame", file=str(path)))
        return frames[0].to_ndarray(format="rgb24")


def middle_frame(path: Path) -> np.ndarray:
    """The frame shown half way through, uint8 [H, W, 3]; decodes from the key frame before it. Raises UnusableInput."""
    with reading(path) as (container, stream):
        middle = _length(container, stream) // 2
        container.seek(middle, stream=stream)
        frames = container.decode(stream)
        shown = next(frames, None)
        for frame in frames:
            if frame.pts is None or frame.pts > middle:
                break
            shown = frame
        if shown is None:
            raise UnusableInput(Message("video.no_frame", file=str(path)))
        return shown.to_ndarray(format="rgb24")


def probe(path: Path) -> VideoInfo:
    """Frame count, rate, size and codec, from the header alone. Raises UnusableInput."""
    with reading(path) as (container, stream):
        fps = stream.average_rate or Fraction(0)
        frames = stream.frames or round(Fraction(container.duration or 0, av.time_base) * fps)
        return VideoInfo(frames, fps, stream.width, stream.height, stream.codec_context.name)


def frames_in(video: Path) -> int:
    """How many frames a video has; 0 when it is missing or damaged."""
    try:
        return probe(video).frames
    except UnusableInput:
        return 0
