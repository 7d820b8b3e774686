"""The parts of a safetensors file that is written tensor by tensor, so that memory holds one of them at a time.

The file: 8 bytes with the header's length, the header as JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import torch
from torch import Tensor

LENGTH_BYTES = 8
ALIGNMENT_BYTES = 8
"""Of where the tensors begin, in files as safetensors writes them."""
NAMES: Mapping[torch.dtype, str] = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
}
"""What safetensors calls the numbers that weights are kept in."""

Layout = Mapping[str, tuple[str, tuple[int, ...], int]]
"""Name -> dtype as safetensors names it, shape, bytes; in the order in which they lie in the file."""


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """Of tensors like these; they may be on the meta device."""
    return {name: (NAMES[each.dtype], tuple(each.shape), each.nbytes) for name, each in tensors.items()}


def header(layout: Layout, metadata: Mapping[str, str], alignment: int = ALIGNMENT_BYTES) -> bytes:
    """With its length before it, and spaces behind it so that the tensors begin at a multiple of ``alignment``."""
    entries, begin = {}, 0
    for name, (dtype, shape, size) in layout.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, begin + size)}
        begin += size
    text = json.dumps({"__metadata__": metadata, **entries}, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + LENGTH_BYTES) % alignment)
    return struct.pack("<Q", len(text)) + text


def content(tensor: Tensor) -> memoryview:
    """Its bytes as they lie in the file; of a tensor on the CPU not a copy."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
