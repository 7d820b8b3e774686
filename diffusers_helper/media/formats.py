"""The results that are written once, at the end: mp4 in finer pixels, WebM, GIF, animated WebP, and PNGs in a ZIP.

Each writer goes through the frames one after the other and holds none of them for longer than its encoder looks ahead;
GIF goes through them twice. What made the file stands in it where the format has a place (``metadata.py`` reads it).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import faults
from ..request.output import Frames, Gif, Mp4, Output, Webm, Webp
from .files import written_whole
from .gif import write_gif
from .metadata import RECIPE_NAME
from .video import Encoding, encode, h264
from .webp import write_webp

PNG_LEVEL = 4
"""As small as the usual 6, in two thirds of the time."""
_AT_ONCE = {"movflags": "+faststart"}
"""A video can be played while it loads."""
_VP9 = {"b": "0", "deadline": "good", "cpu-used": "4"}
_AV1 = {"preset": "6"}
_H264_PIXELS = {"8bit": "yuv420p", "10bit": "yuv420p10le", "444": "yuv444p"}
_WEBM: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "vp9": ("libvpx-vp9", "yuv420p", _VP9),
    "vp9_444": ("libvpx-vp9", "yuv444p", _VP9),
    "av1": ("libsvtav1", "yuv420p", _AV1),
    "av1_10bit": ("libsvtav1", "yuv420p10le", _AV1),
}
"""Encoder, pixels and options of a WebM's codecs."""


def write_output(target: Path, frames: Iterable[np.ndarray], fps: int, output: Output, comment: str) -> None:
    """Writes frames, uint8 [H, W, 3] each, which can be gone through again, as the file that ``output`` asks for.

    ``comment``: what the file says of its making; see ``as_comment``. Raises OutputFailed, ValueError for frames that
    no encoder would take, and what ``frames`` raises.
    """
    with written_whole(target) as part:
        _WRITERS[type(output)](part, frames, fps, output, comment)
        faults.passing("mux")


def _mp4(path: Path, frames: Iterable[np.ndarray], fps: int, output: Mp4, comment: str) -> None:
    encoding = replace(h264(output.crf, _H264_PIXELS[output.pixels]), container_options=_AT_ONCE)
    encode(path, frames, fps, encoding, comment)


def _webm(path: Path, frames: Iterable[np.ndarray], fps: int, output: Webm, comment: str) -> None:
    codec, pixels, options = _WEBM[output.codec]
    encode(path, frames, fps, Encoding(codec, pixels, {**options, "crf": str(output.crf)}, "webm"), comment)


def _gif(path: Path, frames: Iterable[np.ndarray], fps: int, output: Gif, comment: str) -> None:
    write_gif(path, frames, fps, comment)


def _webp(path: Path, frames: Iterable[np.ndarray], fps: int, output: Webp, comment: str) -> None:
    write_webp(path, frames, fps, output.quality, output.lossless, comment)


def _frames(path: Path, frames: Iterable[np.ndarray], fps: int, output: Frames, comment: str) -> None:
    """Nothing is compressed twice. What made them stands first, so that it is read without a look at all the others."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(RECIPE_NAME), comment)
        for number, pixels in enumerate(frames):
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, format="PNG", compress_level=PNG_LEVEL)
            archive.writestr(zipfile.ZipInfo(f"frame_{number:05}.png"), content.getvalue())


_WRITERS: Mapping[type[Output], Callable[[Path, Iterable[np.ndarray], int, Any, str], None]] = {
    Mp4: _mp4,
    Webm: _webm,
    Gif: _gif,
    Webp: _webp,
    Frames: _frames,
}
