"""A frame out of a result of any kind: a film, a picture that moves or does not, or an archive of frames.

They are for results of our own. Whatever goes wrong with one becomes UnusableInput with its name.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import UnusableInput
from ..request.output import output_by_suffix
from ..words import Message
from . import video

_DECODERS: dict[str, type[ImageFile]] = {".gif": GifImageFile, ".webp": WebPImageFile, ".png": PngImageFile}


def last_still(path: Path) -> np.ndarray:
    """The frame shown last, uint8 [H, W, 3]. Raises UnusableInput."""
    return video.last_frame(path) if _is_film(path) else _still(path, 1)


def middle_still(path: Path) -> np.ndarray:
    """The frame shown half way through, uint8 [H, W, 3]. Raises UnusableInput."""
    return video.middle_frame(path) if _is_film(path) else _still(path, 0.5)


def _is_film(path: Path) -> bool:
    made = output_by_suffix(path.suffix)
    return made is None or made.shown == "film"


def _still(path: Path, share: float) -> np.ndarray:
    with _unspoilt(path), path.open("rb") as file:
        if path.suffix == ".zip":
            return _of_archive(file, share)
        with _DECODERS[path.suffix](file) as image:
            image.seek(_number(getattr(image, "n_frames", 1), share))
            return np.array(image.convert("RGB"))


def _of_archive(file: IO[bytes], share: float) -> np.ndarray:
    with zipfile.ZipFile(file) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        content = io.BytesIO(archive.read(names[_number(len(names), share)]))
    with PngImageFile(content) as image:
        return np.array(image.convert("RGB"))


def _number(count: int, share: float) -> int:
    return min(int(count * share), count - 1)


@contextmanager
def _unspoilt(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UnusableInput(Message("video.not_read", file=str(path), reason=str(error))) from error
