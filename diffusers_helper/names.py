"""What files are called: any bytes but a slash, told as text.

Python keeps bytes that are not UTF-8 as lone surrogates (``surrogateescape``). A text with such finds its file again,
passes through JSON as an escape, and cannot be written out in any encoding. Standard library and pydantic only.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import InstanceOf

QUOTED_CHARACTERS = 60


AnyText: TypeAlias = Annotated[str, InstanceOf()]
"""A text that may hold a file's name; pydantic's own str refuses other bytes."""


def path_of(text: str) -> Path:
    """What somebody wrote for a file or a folder, as a path; ``~`` is a home folder.

    Raises:
        ValueError: nothing can have that name; says why.
    """
    if not text.strip() or "\0" in text:
        raise ValueError("give the path of a file or folder")
    try:
        path = Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError:
        home = Path(text).parts[0]
        raise ValueError(f"there is no home folder {home}; what is called so itself is ./{home}") from None
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError("the name is too long for this disk; give a shorter one") from None
    return path


def is_text(path: Path) -> bool:
    """Whether the path can be written in UTF-8; some libraries open no other."""
    return os.fsencode(path).decode("utf-8", "replace") == str(path)


def shown(path: object) -> str:
    """A path for people's eyes and for any encoder: other bytes are written as ``\\xff``."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def shell_word(name: str) -> str:
    """A name as bash reads it; other bytes are written out, so that they can be copied from any terminal."""
    if is_text(Path(name)):
        return shlex.quote(name)
    plain = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{shown(plain)}'"


def quoted(value: object) -> str:
    """A value in a message: not longer than a line."""
    text = repr(value)
    if len(text) <= QUOTED_CHARACTERS:
        return text
    return f"{text[: QUOTED_CHARACTERS - 3]}... ({len(str(value))} characters)"


def take_names_as_utf8() -> None:
    """Begin this process anew where Python takes names for ASCII, as in the locale C with its UTF-8 mode off.

    No other name could be given then, and no prompt.
    """
    if sys.getfilesystemencoding() == "ascii":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
