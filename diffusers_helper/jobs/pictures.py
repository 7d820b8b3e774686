"""The start pictures of queued jobs, kept by content: a job must not depend on a file that its user may move."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from .. import faults
from ..errors import UnusablePicture
from ..media.files import make_folder, written_whole
from ..media.metadata import write_png
from ..media.pictures import open_picture
from ..words import Message

log = logging.getLogger(__name__)

THUMBNAIL_PIXELS = 320


def thumbnail_of(place: Path) -> Path:
    """Where the thumbnail of a picture on the shelf lies."""
    return place.with_suffix(".thumb.png")


class PictureShelf:
    """A folder of pictures, each under the SHA-256 of its bytes, with a thumbnail beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._arriving: list[str] = []

    @contextmanager
    def taking(self, picture: Path) -> Iterator[Path]:
        """Copy ``picture`` onto the shelf and yield its place there; until the block ends, no tidying removes it.

        Raises:
            UnusablePicture: see ``open_picture``; nothing was written.
            OutputFailed: it cannot be written.
        """
        pixels = open_picture(picture)
        try:
            content = picture.read_bytes()
        except OSError as error:
            what = {"name": repr(picture.name), "reason": error.strerror}
            raise UnusablePicture(Message("command.picture_unreadable", **what), "unreadable", **what) from None
        place = self._folder / f"{hashlib.sha256(content).hexdigest()}.picture"
        with self._spared(place.stem):
            if not place.is_file():
                make_folder(self._folder)
                write_png(thumbnail_of(place), _small(pixels), {}, durable=False)
                with written_whole(place) as part:
                    faults.passing("upload")
                    part.write_bytes(content)
            yield place

    @contextmanager
    def _spared(self, stem: str) -> Iterator[None]:
        with self._lock:
            self._arriving.append(stem)
        try:
            yield
        finally:
            with self._lock:
                self._arriving.remove(stem)

    def keep_only(self, pictures: Iterable[str]) -> None:
        """Remove every picture that no job needs any more."""
        with self._lock:
            wanted = {Path(picture).stem for picture in pictures}.union(self._arriving)
            for file in self._folder.glob("[!.]*"):
                if file.name.split(".")[0] not in wanted:
                    _remove(file)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s could not be removed: %s", file, error.strerror)


def _small(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3], shrunk so that both sides fit THUMBNAIL_PIXELS."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    return np.asarray(picture)
