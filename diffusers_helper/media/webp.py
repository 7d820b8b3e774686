"""Animated WebP, written frame by frame: each is a picture of its own in the container that the format defines.

The libraries that write one hold all of it in memory, and gain nothing by it: they leave out pixels that stay the same,
which no two frames of a generated video have.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from .video import first_of

_ANIMATED, _WITH_EXIF = 0x02, 0x08
_ALONE = 0x02
"""Of a frame: it is not blended with the one before it."""
_DESCRIPTION = 0x010E
"""EXIF's number of ImageDescription."""
_RIFF_BYTES, _CHUNK_BYTES = 12, 8
MOST_CHUNKS = 20_000
"""So many are looked through for what made a file; 120 seconds have 3601 frames."""


def write_webp(path: Path, frames: Iterable[np.ndarray], fps: int, quality: int, lossless: bool, comment: str) -> None:
    """Writes frames, uint8 [H, W, 3] each, as a WebP without an end; they last 33 or 34 milliseconds.

    Raises ValueError for frames that are none, OSError.
    """
    first, frames = first_of(frames)
    height, width = first.shape[:2]
    with path.open("wb") as file:
        file.write(b"RIFF\0\0\0\0WEBP")
        file.write(_chunk(b"VP8X", bytes((_ANIMATED | _WITH_EXIF, 0, 0, 0)) + _number(width - 1) + _number(height - 1)))
        file.write(_chunk(b"ANIM", struct.pack("<IH", 0, 0)))
        for number, pixels in enumerate(frames):
            lasts = _at(number + 1, fps) - _at(number, fps)
            place = _number(0) + _number(0) + _number(width - 1) + _number(height - 1) + _number(lasts)
            file.write(_chunk(b"ANMF", place + bytes((_ALONE,)) + _picture(pixels, quality, lossless)))
        file.write(_chunk(b"EXIF", _exif(comment)))
        length = file.tell() - _CHUNK_BYTES
        file.seek(4)
        file.write(struct.pack("<I", length))


def _at(number: int, fps: int) -> int:
    """When a frame is shown, in milliseconds."""
    return round(number * 1000 / fps)


def _number(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _picture(pixels: np.ndarray, quality: int, lossless: bool) -> bytes:
    """The chunk of a WebP that is this picture and nothing else."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="WEBP", quality=quality, lossless=lossless)
    return content.getvalue()[_RIFF_BYTES:]


def _exif(comment: str) -> bytes:
    told = Image.Exif()
    told[_DESCRIPTION] = comment
    return told.tobytes().removeprefix(b"Exif\0\0")


def webp_comment(file: IO[bytes], most_bytes: int) -> str | None:
    """What the EXIF of a WebP describes it as; no pixels are decoded. Of a long one ``most_bytes`` are read."""
    file.read(_RIFF_BYTES)
    for _ in range(MOST_CHUNKS):
        head = file.read(_CHUNK_BYTES)
        if len(head) < _CHUNK_BYTES:
            break
        name, length = struct.unpack("<4sI", head)
        if name == b"EXIF":
            told = Image.Exif()
            told.load(file.read(min(length, most_bytes)))
            return told.get(_DESCRIPTION)
        file.seek(length + length % 2, io.SEEK_CUR)
    return None
