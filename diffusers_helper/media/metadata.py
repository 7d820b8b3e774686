"""The recipe inside our results: which request made this file.

It is one line of JSON, ``{"framepack": {...}}``, in the field named Comment: the ``comment`` tag of an mp4, a
compressed iTXt chunk of a PNG. The JSON is pure ASCII (other characters are escaped), so it survives any tool that
copies tags. What is read back comes from strangers: it is capped in size, and only data, never acted on here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from ..errors import UnusableInput
from .files import written_whole

KEY = "framepack"
PNG_FIELD = "Comment"
MAX_TEXT_CHARACTERS = 1_000_000


def as_comment(metadata: Mapping[str, Any]) -> str:
    """The text for ``join_segments`` that ``read_metadata`` understands. Takes only what JSON can hold."""
    return json.dumps({KEY: dict(metadata)}, allow_nan=False)


def write_png(path: Path, pixels: np.ndarray, metadata: Mapping[str, Any], durable: bool = True) -> None:
    """Writes uint8 [H, W, 3] as a PNG with ``metadata``. Raises OutputFailed. ``durable``: wait for the disk."""
    chunks = PngInfo()
    chunks.add_itxt(PNG_FIELD, as_comment(metadata), zip=True)
    with written_whole(path, durable) as part:
        Image.fromarray(pixels).save(part, format="PNG", pnginfo=chunks)


def _png_comment(file: IO[bytes]) -> str | None:
    """Reads the chunks before the pixels; the pixels are never decoded."""
    with PngImageFile(file) as image:
        return image.info.get(PNG_FIELD)


def _mp4_comment(file: IO[bytes]) -> str | None:
    """Reads the header as mp4 and nothing else: no playlist, no other file, no address can be opened from it."""
    with av.open(file, format="mp4") as container:
        return container.metadata.get("comment")


def _comment_reader(head: bytes, path: Path) -> Callable[[IO[bytes]], str | None]:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_comment
    if head[4:8] == b"ftyp":
        return _mp4_comment
    raise UnusableInput(f"{path.name!r} is neither a PNG nor an MP4 file; settings can be read from those only.")


def _comment(path: Path) -> str | None:
    """The comment of a PNG or MP4 file. Raises UnusableInput when the file cannot be read as such."""
    try:
        with path.open("rb") as file:
            read = _comment_reader(file.read(12), path)
            file.seek(0)
            return read(file)
    except UnusableInput:
        raise
    except Exception as error:
        raise UnusableInput(
            f"The settings in {path.name!r} cannot be read: it is missing, damaged or holds too much text ({error})."
        ) from error


def _recipe(comment: str) -> Any:
    """What stands under our key, or None when the comment is somebody else's."""
    try:
        found = json.loads(comment)
    except (ValueError, RecursionError):
        return None
    return found.get(KEY) if isinstance(found, dict) else None


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata that our PNG or MP4 file carries; values are unchecked, and paths among them are only text.

    Raises UnusableInput when the file cannot be read, carries none, another program's, or more than a recipe can be.
    """
    comment = _comment(path)
    if comment and len(comment) > MAX_TEXT_CHARACTERS:
        raise UnusableInput(f"{path.name!r} carries {len(comment)} characters of text; settings are never that long.")
    recipe = _recipe(comment) if comment else None
    if not isinstance(recipe, dict):
        raise UnusableInput(
            f"{path.name!r} carries no FramePack settings: another program made it, or its metadata was removed. "
            "Choose a PNG or MP4 file that FramePack saved."
        )
    return recipe
