"""Animated GIF: one palette for the whole video, by FFmpeg's filters; so the frames are gone through twice.

A GIF counts hundredths of a second. At 30 frames per second they last 3, 4 and 3 of them, so that the whole lasts as
long as the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, cast

import av
import numpy as np
from av.filter import Graph

from .video import first_of

UNIT = Fraction(1, 100)
"""Of the time in a GIF, in seconds."""
_EXTENSION, _COMMENT = 0x21, 0xFE
_HEADER_BYTES, _BLOCK_BYTES = 13, 255
_PIXELS = "bgra"
_DITHER = "dither=bayer:bayer_scale=3:diff_mode=rectangle"
"""A pattern that stands still while the picture moves: smaller and three times as fast as passing errors on."""
Place = tuple[int, int]
"""Height and width."""


def write_gif(path: Path, frames: Iterable[np.ndarray], fps: int, comment: str) -> None:
    """Writes frames, uint8 [H, W, 3] each, which can be gone through again, as a GIF without an end.

    Raises ValueError for frames that no encoder would take, and what FFmpeg and the disk raise.
    """
    first, _ = first_of(frames)
    palette, count = _palette(frames, fps, first.shape[:2])
    last = str(_at(count, fps) - _at(count - 1, fps))
    options = {"loop": "0", "final_delay": last}
    with _commented(path, comment) as file, av.open(file, "w", format="gif", options=options) as container:
        stream = container.add_stream("gif", rate=1 / UNIT)
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], "pal8"
        for frame in _in_palette(frames, fps, palette, first.shape[:2]):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _at(number: int, fps: int) -> int:
    """When a frame is shown, in units."""
    return round(number / (fps * UNIT))


def _timed(frames: Iterable[np.ndarray], fps: int) -> Iterator[av.VideoFrame]:
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format=_PIXELS)
        frame.time_base, frame.pts = UNIT, _at(number, fps)
        frame.duration = _at(number + 1, fps) - frame.pts
        yield frame


def _palette(frames: Iterable[np.ndarray], fps: int, size: Place) -> tuple[av.VideoFrame, int]:
    """The 256 colours of all frames, and how many frames there are."""
    filters = _Filters(size, "palettegen", "reserve_transparent=0")
    count = 0
    found: list[av.VideoFrame] = []
    for frame in _timed(frames, fps):
        found += filters.told(frame)
        count += 1
    found += filters.told(None)
    return found[0], count


def _in_palette(frames: Iterable[np.ndarray], fps: int, palette: av.VideoFrame, size: Place) -> Iterator[av.VideoFrame]:
    filters = _Filters(size, "paletteuse", _DITHER, palette)
    for frame in _timed(frames, fps):
        yield from filters.told(frame)
    yield from filters.told(None)


class _Filters:
    """One filter over the frames, and over a palette where it takes one."""

    def __init__(self, size: Place, name: str, options: str, palette: av.VideoFrame | None = None) -> None:
        self._graph = graph = Graph()  # with it what is in it goes, which does not keep it
        filtering, self._end = graph.add(name, options), graph.add("buffersink")
        pixels, inputs = av.VideoFormat(_PIXELS), [size, *([(palette.height, palette.width)] if palette else [])]
        buffers = [
            graph.add_buffer(width=width, height=height, format=pixels, time_base=UNIT) for height, width in inputs
        ]
        for place, buffer in enumerate(buffers):
            buffer.link_to(filtering, 0, place)
        filtering.link_to(self._end)
        graph.configure()
        self._input = buffers[0]
        if palette:
            palette.time_base, palette.pts = UNIT, 0
            buffers[1].push(palette)
            buffers[1].push(None)

    def told(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Hand a frame in, None at the end; what has come out since. Nothing waits in the filter for more frames."""
        self._input.push(frame)
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                made = cast(av.VideoFrame, self._end.pull())
                made.pict_type = 0
                yield made


@contextmanager
def _commented(path: Path, comment: str) -> Iterator[_Commented]:
    """The file, open for a muxer. What the disk refuses is told as the system tells it."""
    with path.open("wb") as file:
        commented = _Commented(file, comment)
        try:
            yield commented
        except av.FFmpegError as error:
            raise commented.refusal or error from None


class _Commented:
    """A file that gets a comment behind its header, before the first picture, where readers look for it.

    Attributes:
        refusal: why it could not be written.
    """

    def __init__(self, file: IO[bytes], comment: str) -> None:
        self._file, self._comment, self._head = file, comment, b""
        self.refusal: OSError | None = None

    def write(self, data: bytes) -> int:
        """What the muxer has made. Raises OSError, which the muxer hands on as an error of its own."""
        try:
            return self._write(bytes(data))
        except OSError as error:
            self.refusal = error
            raise

    def _write(self, data: bytes) -> int:
        if not self._comment:
            return self._file.write(data)
        self._head += data
        if len(self._head) >= _HEADER_BYTES and len(self._head) >= (length := header_length(self._head)):
            self._file.write(self._head[:length] + _comment_block(self._comment) + self._head[length:])
            self._comment = ""
        return len(data)


def header_length(head: bytes) -> int:
    """Of a GIF that begins with ``head``, up to its first block: the palette of the whole file is in it."""
    flags = head[10]
    return _HEADER_BYTES + (3 * 2 ** (1 + (flags & 7)) if flags & 0x80 else 0)


def _comment_block(comment: str) -> bytes:
    text = comment.encode("ascii")
    pieces = (text[at : at + _BLOCK_BYTES] for at in range(0, len(text), _BLOCK_BYTES))
    return bytes((_EXTENSION, _COMMENT)) + b"".join(bytes((len(piece),)) + piece for piece in pieces) + b"\0"


def gif_comment(file: IO[bytes], most_bytes: int) -> str | None:
    """The first comment before the pictures of a GIF. Of an endless one no more than ``most_bytes`` are read."""
    file.read(header_length(file.read(_HEADER_BYTES)) - _HEADER_BYTES)
    left = most_bytes
    while left > 0 and (start := file.read(2))[:1] == bytes((_EXTENSION,)):
        content = _blocks(file.read, left)
        left -= len(content) + 2
        if start[1] == _COMMENT:
            return content.decode()
    return None


def _blocks(read: Callable[[int], bytes], most_bytes: int) -> bytes:
    found = bytearray()
    while len(found) <= most_bytes and (length := read(1)) and length[0]:
        found += read(length[0])
    return bytes(found)
