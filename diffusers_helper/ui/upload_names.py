"""Pictures among the uploads by the names that a browser keeps: the last two parts of their paths, a folder that is
named by the content and the file. No other file has such a name."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..media.files import make_folder, written_whole
from ..media.pictures import media_type

HEAD_BYTES = 512
_KEPT_NAME = re.compile(r"[0-9a-f]{64}/[^/\\\0]{1,255}")
"""A folder named by the SHA-256 of the file, as Gradio makes it, and the file."""


def upload_named(name: Any, uploads: Path) -> str | None:
    """The path of the picture among ``uploads`` that a browser calls ``name``; None when there is no such picture."""
    path = path_of_upload(name, uploads)
    if path is None:
        return None
    with suppress(OSError, ValueError):
        place = Path(path).resolve(strict=True)
        if place.is_file() and place.is_relative_to(uploads.resolve()):
            with place.open("rb") as file:
                return str(place) if media_type(file.read(HEAD_BYTES)) else None
    return None


def path_of_upload(name: Any, uploads: Path) -> str | None:
    """Where it lies, if it is there yet; None for what is no such name."""
    is_name = isinstance(name, str) and _KEPT_NAME.fullmatch(name)
    return str(uploads / name) if is_name else None


def name_among(path: str | None, uploads: Path) -> str:
    """How a browser calls the picture at ``path``, which is copied to the uploads unless it is one of them.

    Empty when it is gone or no picture. Raises OutputFailed.
    """
    if not path:
        return ""
    name = "/".join(Path(path).parts[-2:])
    there = upload_named(name, uploads)
    if there and Path(there) == Path(path).resolve():
        return name
    with suppress(OSError):
        return _copied(Path(path).read_bytes(), uploads)
    return ""


def _copied(content: bytes, uploads: Path) -> str:
    """As Gradio keeps a file; the name's ending says what it is, whatever it was called."""
    kind = media_type(content[:HEAD_BYTES])
    if kind is None:
        return ""
    name = f"{hashlib.sha256(content).hexdigest()}/picture{mimetypes.guess_extension(kind) or ''}"
    if upload_named(name, uploads) is None:
        make_folder((uploads / name).parent)
        with written_whole(uploads / name) as part:
            part.write_bytes(content)
    return name
