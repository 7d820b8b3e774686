"""A LoRA's file: opened without reading a weight, refused where it is none, read tensor after tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..words import Message
from .header import Stored, damaged, not_read, read_header, recognised, refuse_others, refused, shown_key

__all__ = ["DTYPES", "LoraFile", "Stored", "open_lora", "refused", "shown_key"]

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""The numbers that weights can be in, by the name that safetensors gives them."""


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
            raise refused(self.path, damaged(error)) from error
        if not _is_finite(tensor):
            raise refused(self.path, Message("lora.not_finite", key=shown_key(key)))
        return tensor.reshape(self.tensors[key].matrix)


def open_lora(path: Path) -> LoraFile:
    """Read the header. Raises UnusableLora for what is no safetensors file; a pickle stays unread."""
    try:
        refuse_others(path)
        opened = safe_open(path, "pt")
    except OSError as error:
        raise not_read(path, error) from None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise refused(path, recognised(path) or damaged(error)) from None
    header = read_header(path)
    return LoraFile(path, header.size, header.tensors, header.metadata, opened)


def _is_finite(tensor: Tensor) -> bool:
    """By its extremes, which NaN becomes too: much quicker than asking each number. Types of 8 bits have none."""
    extremes = torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
    return all(math.isfinite(float(each)) for each in extremes)
