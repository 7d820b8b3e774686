"""The header of a LoRA's file: what the file is, or why it is none. Reads no weight, and needs no torch."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UnusableLora
from ..names import is_text, shown
from ..words import Message, plain

PICKLES = frozenset({".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"})
FIRST_BYTES: Mapping[bytes, Message] = {
    b"PK\x03\x04": Message("lora.pickle"),
    b"\x80\x02": Message("lora.pickle"),
    b"\x80\x04": Message("lora.pickle"),
    b"<": Message("lora.web_page"),
    b"version https://git-lfs": Message("lora.pointer"),
}
"""What a file begins with that has turned out to be none; the length of a header can look the same."""
LENGTH_BYTES, MOST_BYTES = 8, 100_000_000
"""Of the number that says how long the header is, and of the longest header that safetensors takes."""
KEY_SHOWN = 200
METADATA = "__metadata__"


@dataclass(frozen=True)
class Stored:
    """What the header says of a tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def matrix(self) -> tuple[int, ...]:
        """The shape without the 1x1 of a convolution that stands for a linear."""
        return self.shape[:2] if len(self.shape) > 2 and set(self.shape[2:]) == {1} else self.shape


@dataclass(frozen=True)
class Header:
    """What a file says before its weights.

    Attributes:
        size: of the whole file in bytes.
        tensors: by key.
        metadata: what its writer has noted.
    """

    path: Path
    size: int
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read as much of the file as its header. Raises UnusableLora for what is no whole safetensors file."""
    try:
        refuse_others(path)
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            if not 0 < length <= min(size - LENGTH_BYTES, MOST_BYTES):
                raise ValueError("header too long")
            content = json.loads(stream.read(length), object_pairs_hook=lambda pairs: once(path, pairs))
        return _header(path, size, LENGTH_BYTES + length, content)
    except OSError as error:
        raise not_read(path, error) from None
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        raise refused(path, recognised(path) or damaged(error)) from None


def _header(path: Path, size: int, begins: int, content: Any) -> Header:
    """Raises one of many errors for what no header is: anything may stand where a number or a list belongs."""
    entries = {key: entry for key, entry in content.items() if key != METADATA}
    end = begins + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    if end != size:
        raise ValueError(f"{size} bytes where {end} belong")
    tensors = {key: Stored(tuple(map(int, entry["shape"])), str(entry["dtype"])) for key, entry in entries.items()}
    metadata = {str(key): str(text) for key, text in (content.get(METADATA) or {}).items()}
    "".join((*tensors, *metadata, *metadata.values())).encode()  # half a character is none, and no page can show it
    return Header(path, size, tensors, metadata)


def refused(path: Path, reason: Message) -> UnusableLora:
    """The error that names the file."""
    return UnusableLora(Message("lora.unusable", file=shown(path), reason=reason))


def not_read(path: Path, error: OSError) -> UnusableLora:
    """The error for a file that the system does not hand out."""
    return refused(path, why_not_read(error))


def why_not_read(error: OSError) -> Message:
    """What the system says."""
    return Message("lora.not_read", reason=error.strerror or shown(error))


def shown_key(key: str) -> str:
    """A key in a message: no control characters, and not without end."""
    text = key if key.isprintable() else repr(key)
    return text if len(text) <= KEY_SHOWN else f"{text[:KEY_SHOWN]}..."


def refuse_others(path: Path) -> None:
    """What can be told of a file without opening it. Raises UnusableLora."""
    if not path.exists():
        raise refused(path, Message("lora.missing"))
    if not path.is_file():
        raise refused(path, Message("lora.no_file"))
    if path.suffix.lower() in PICKLES:
        raise refused(path, Message("lora.pickle"))
    if not is_text(path):
        raise refused(path, Message("lora.no_text"))
    if not path.stat().st_size:
        raise refused(path, Message("lora.empty"))


def recognised(path: Path) -> Message | None:
    """What a file is that is no safetensors file; None where its beginning does not tell."""
    try:
        with path.open("rb") as stream:
            begins = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        return why_not_read(error)
    return next((reason for sign, reason in FIRST_BYTES.items() if begins.startswith(sign)), None)


def once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the header. Of two tensors with one name, safetensors would take one in silence."""
    key, times = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if times > 1:
        raise refused(path, Message("lora.named_twice", key=shown_key(key)))
    return dict(pairs)


def damaged(error: Exception) -> Message:
    """That a file is not whole, with a library's own words for it."""
    return Message("lora.damaged", reason=plain(str(error)))
