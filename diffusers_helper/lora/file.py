"""A LoRA's file: opened without reading a weight, refused where it is none, read tensor after tensor."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

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
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""The numbers that weights can be in, by the name that safetensors gives them."""
KEY_SHOWN = 200


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
class LoraFile:
    """An opened file. It stays open: one that is removed or replaced meanwhile is read as it was.

    Attributes:
        size: in bytes.
        tensors: by key, what the header says.
        metadata: as the header has it.
    """

    path: Path
    size: int
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]
    _opened: Any = field(repr=False)

    def empty(self, key: str) -> Tensor:
        """A tensor of its shape on the meta device."""
        return torch.empty(self.tensors[key].matrix, dtype=DTYPES[self.tensors[key].dtype], device="meta")

    def read(self, key: str) -> Tensor:
        """A tensor in memory of its own; raises UnusableLora for NaN and infinity."""
        try:
            tensor: Tensor = self._opened.get_tensor(key).clone()
        except (OSError, SafetensorError) as error:
            raise refused(self.path, _damaged(error)) from error
        if not _is_finite(tensor):
            raise refused(self.path, Message("lora.not_finite", key=shown_key(key)))
        return tensor.reshape(self.tensors[key].matrix)


def open_lora(path: Path) -> LoraFile:
    """Read the header. Raises UnusableLora for what is no safetensors file; a pickle stays unread."""
    try:
        _refuse_others(path)
        opened = safe_open(path, "pt")
        _refuse_duplicates(path)
        size = path.stat().st_size
        slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 - it is no mapping
    except OSError as error:
        raise refused(path, Message("lora.not_read", reason=error.strerror or str(error))) from None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise refused(path, _recognised(path) or _damaged(error)) from None
    tensors = {key: Stored(tuple(each.get_shape()), str(each.get_dtype())) for key, each in slices.items()}
    return LoraFile(path, size, tensors, opened.metadata() or {}, opened)


def refused(path: Path, reason: Message) -> UnusableLora:
    """The error that names the file."""
    return UnusableLora(Message("lora.unusable", file=shown(path), reason=reason))


def shown_key(key: str) -> str:
    """A key in a message: no control characters, and not without end."""
    text = key if key.isprintable() else repr(key)
    return text if len(text) <= KEY_SHOWN else f"{text[:KEY_SHOWN]}..."


def _is_finite(tensor: Tensor) -> bool:
    """By its extremes, which NaN becomes too: much quicker than asking each number. Types of 8 bits have none."""
    extremes = torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
    return all(math.isfinite(float(each)) for each in extremes)


def _refuse_others(path: Path) -> None:
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


def _recognised(path: Path) -> Message | None:
    """What a file is that is no safetensors file; None where its beginning does not tell."""
    with path.open("rb") as stream:
        begins = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((reason for sign, reason in FIRST_BYTES.items() if begins.startswith(sign)), None)


def _refuse_duplicates(path: Path) -> None:
    """Of two tensors with one name, safetensors would take one in silence."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        key, times = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
        if times > 1:
            raise refused(path, Message("lora.named_twice", key=shown_key(key)))
        return dict(pairs)

    with path.open("rb") as stream:
        json.loads(stream.read(int.from_bytes(stream.read(8), "little")), object_pairs_hook=once)


def _damaged(error: Exception) -> Message:
    return Message("lora.damaged", reason=plain(str(error)))
