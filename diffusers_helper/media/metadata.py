"""The recipe inside our results: which request made this file.

It is one line of JSON, ``{"framepack": {...}}``, where each format has a place for a comment: the ``comment`` tag of
an mp4 or WebM, a compressed iTXt chunk named Comment of a PNG, the comment before the pictures of a GIF, the
ImageDescription of a WebP's EXIF, and the first file of a ZIP archive of frames. The JSON is pure ASCII (other
characters are escaped), so it survives any tool that copies tags. What is read back comes from strangers: it is
capped in size, and only data, never acted on here. Other programs' texts (``read_png_texts``, ``read_mp4_texts``) and
whole JSON files (``strict_object``) are read under the same caps.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from ..errors import NoSettings, UnusableInput
from ..names import quoted
from ..words import Message
from .files import written_whole
from .gif import gif_comment
from .video import IS_WEBM
from .webp import webp_comment

KEY = "framepack"
PNG_FIELD = "Comment"
RECIPE_NAME = "recipe.json"
"""In an archive of frames."""
MAX_TEXT_CHARACTERS = 1_000_000
SPARE_BYTES = 1000
"""What stands around a text; one that is cut off at both is too long for certain."""


def as_comment(metadata: Mapping[str, Any]) -> str:
    """The text for ``join_segments`` that ``read_metadata`` understands. Takes only what JSON can hold."""
    return json.dumps({KEY: dict(metadata)}, allow_nan=False)


def write_png(path: Path, pixels: np.ndarray, metadata: Mapping[str, Any], durable: bool = True) -> None:
    """Writes uint8 [H, W, 3] as a PNG with ``metadata``. Raises OutputFailed. ``durable``: wait for the disk."""
    chunks = PngInfo()
    chunks.add_itxt(PNG_FIELD, as_comment(metadata), zip=True)
    with written_whole(path, durable) as part:
        Image.fromarray(pixels).save(part, format="PNG", pnginfo=chunks)


def strict_object(text: str) -> dict[str, Any]:
    """The JSON object in ``text``. Raises NoSettings, also for what a lenient reader would let pass.

    NaN and Infinity, which other programs write, are read as such; whoever takes numbers out of it checks them.
    """
    try:
        found = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise NoSettings(Message("recall.too_deep")) from None
    except json.JSONDecodeError as error:
        raise NoSettings(Message("recall.no_json", reason=str(error))) from None
    except ValueError as error:  # a number of thousands of digits
        raise NoSettings(str(error)) from None
    if not isinstance(found, dict):
        raise NoSettings(Message("recall.no_object"))
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise NoSettings(Message("recall.twice", key=quoted(key)))
    return found


def _png_texts(file: IO[bytes]) -> dict[str, str]:
    """Reads the chunks before the pixels; the pixels are never decoded."""
    with PngImageFile(file) as image:
        return {str(key): text for key, text in image.info.items() if isinstance(text, str)}


def _png_comment(file: IO[bytes]) -> str | None:
    return _png_texts(file).get(PNG_FIELD)


def _mp4_texts(file: IO[bytes]) -> dict[str, str]:
    """Reads the header as mp4 and nothing else: no playlist, no other file, no address can be opened from it."""
    with av.open(file, format="mp4") as container:
        return dict(container.metadata)


def _mp4_comment(file: IO[bytes]) -> str | None:
    return _mp4_texts(file).get("comment")


def _webm_comment(file: IO[bytes]) -> str | None:
    """Reads the header as Matroska and nothing else; its tags are in capitals."""
    with av.open(file, format="matroska") as container:
        return {name.lower(): text for name, text in container.metadata.items()}.get("comment")


def _gif_comment(file: IO[bytes]) -> str | None:
    return gif_comment(file, MAX_TEXT_CHARACTERS + SPARE_BYTES)


def _webp_comment(file: IO[bytes]) -> str | None:
    return webp_comment(file, MAX_TEXT_CHARACTERS + SPARE_BYTES)


def _zip_comment(file: IO[bytes]) -> str | None:
    """The first file of an archive, where it is ours; nothing is unpacked, and no list of files is read."""
    name_length, extra_length, length = 0, 0, 0
    head = file.read(_ZIP_HEADER.size)
    if len(head) == _ZIP_HEADER.size:
        _, method, length, name_length, extra_length = _ZIP_HEADER.unpack(head)
        if method == 0 and file.read(name_length) == RECIPE_NAME.encode():
            file.read(extra_length)
            return file.read(min(length, MAX_TEXT_CHARACTERS + SPARE_BYTES)).decode("ascii")
    return None


_ZIP_HEADER = struct.Struct("<4s4xH8xI4xHH")
"""Of a file in an archive: mark, method, the lengths of its content as it lies there, its name, what follows that."""


def is_png(head: bytes) -> bool:
    """Whether a file that begins so is a PNG."""
    return head.startswith(b"\x89PNG\r\n\x1a\n")


def is_mp4(head: bytes) -> bool:
    """Whether a file that begins so is an MP4."""
    return head[4:8] == b"ftyp"


_Reader = Callable[[IO[bytes]], "str | None"]
_READERS: tuple[tuple[Callable[[bytes], bool], _Reader], ...] = (
    (is_png, _png_comment),
    (is_mp4, _mp4_comment),
    (lambda head: head.startswith(IS_WEBM), _webm_comment),
    (lambda head: head.startswith((b"GIF87a", b"GIF89a")), _gif_comment),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", _webp_comment),
    (lambda head: head.startswith(b"PK\3\4"), _zip_comment),
)
"""How each kind of file is told by how it begins, and what reads its comment."""


def holds_settings(head: bytes) -> bool:
    """Whether a file that begins so is of a kind that can carry our settings, JSON aside."""
    return any(matches(head) for matches, _ in _READERS)


def _comment_reader(head: bytes, path: Path) -> _Reader:
    for matches, read in _READERS:
        if matches(head):
            return read
    raise UnusableInput(Message("recall.wrong_kind", file=repr(path.name)))


@contextmanager
def _readable(path: Path) -> Iterator[IO[bytes]]:
    """The open file. Whatever goes wrong while a stranger's file is read becomes UnusableInput with its name."""
    try:
        with path.open("rb") as file:
            yield file
    except UnusableInput:
        raise
    except Exception as error:
        raise UnusableInput(Message("recall.not_read", file=repr(path.name), reason=str(error))) from error


def _require_short(path: Path, characters: int) -> None:
    if characters > MAX_TEXT_CHARACTERS:
        raise UnusableInput(Message("recall.too_long", file=repr(path.name), characters=characters))


def _comment(path: Path) -> str | None:
    """The comment of a file of a known kind. Raises UnusableInput when the file cannot be read as such."""
    with _readable(path) as file:
        read = _comment_reader(file.read(12), path)
        file.seek(0)
        return read(file)


def read_png_texts(path: Path) -> dict[str, str]:
    """The texts before the pixels of any PNG, by name, as other programs write them. Raises UnusableInput."""
    return _read_texts(path, _png_texts)


def read_mp4_texts(path: Path) -> dict[str, str]:
    """The tags of any MP4, by name, as other programs write them. Raises UnusableInput."""
    return _read_texts(path, _mp4_texts)


def _read_texts(path: Path, read: Callable[[IO[bytes]], dict[str, str]]) -> dict[str, str]:
    with _readable(path) as file:
        texts = read(file)
    _require_short(path, sum(len(name) + len(text) for name, text in texts.items()))
    return texts


def read_head(path: Path) -> bytes:
    """The first bytes, by which the kinds of files are told apart. Raises UnusableInput."""
    with _readable(path) as file:
        return file.read(12)


def read_text(path: Path) -> str:
    """A whole text file of settings. Raises UnusableInput when it is no UTF-8 or longer than settings are."""
    with _readable(path) as file:
        content = file.read(MAX_TEXT_CHARACTERS + 1)
    _require_short(path, len(content))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnusableInput(Message("recall.no_settings_file", file=repr(path.name))) from None


def _recipe(comment: str) -> Any:
    """What stands under our key, or None when the comment is somebody else's."""
    try:
        found = json.loads(comment)
    except (ValueError, RecursionError):
        return None
    return found.get(KEY) if isinstance(found, dict) else None


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata that a file of ours carries; values are unchecked, and paths among them are only text.

    Raises UnusableInput when the file cannot be read, carries none, another program's, or more than a recipe can be.
    """
    comment = _comment(path)
    _require_short(path, len(comment or ""))
    recipe = _recipe(comment) if comment else None
    if not isinstance(recipe, dict):
        raise UnusableInput(Message("recall.without_settings", file=repr(path.name)))
    return recipe
