"""A safetensors file written tensor by tensor, and the two hashes by which other programs know a LoRA.

The file: 8 bytes with the header's length, the header as JSON, then the tensors' bytes without gaps. The hashes stand
in the header and are made of what follows it, so they are filled in at the end; their lengths are known. Both are
kohya's: ``sshs_model_hash`` is the SHA-256 of the tensors' bytes, ``sshs_legacy_hash`` the first eight digits of that
of 64 KiB at 1 MiB of a file which has of all metadata only the training's, ``ss_...``.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

MODEL_HASH, LEGACY_HASH = "sshs_model_hash", "sshs_legacy_hash"
LEGACY_FROM, LEGACY_BYTES = 2**20, 2**16
ALIGNMENT = 8

Layout = Mapping[str, tuple[str, tuple[int, ...], int]]
"""Name -> dtype as safetensors names it, shape, bytes; in the order in which they lie in the file."""


def write_streamed(target: Path, layout: Layout, metadata: Mapping[str, str], tensors: Iterable[Tensor]) -> None:
    """Write ``tensors``, which come in the order of ``layout`` and one at a time. Raises OSError.

    Args:
        metadata: kept but for the two hashes, which are computed.
    """
    hashes = KohyaHashes(_header(layout, of_the_training(metadata)))
    empty = {**metadata, MODEL_HASH: "0" * 64, LEGACY_HASH: "0" * 8}
    with target.open("w+b") as file:
        file.write(_header(layout, empty))
        for tensor in tensors:
            content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
            file.write(content)
            hashes.update(content)
        file.seek(0)
        file.write(_header(layout, {**empty, **hashes.metadata()}))


def of_the_training(metadata: Mapping[str, str]) -> dict[str, str]:
    """All metadata that the legacy hash knows of."""
    return {name: text for name, text in metadata.items() if name.startswith("ss_")}


def _header(layout: Layout, metadata: Mapping[str, str]) -> bytes:
    """With its length before it, and spaces behind it so that the tensors begin at a multiple of 8."""
    entries, begin = {}, 0
    for name, (dtype, shape, size) in layout.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, begin + size)}
        begin += size
    text = json.dumps({"__metadata__": metadata, **entries}, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


class KohyaHashes:
    """Both hashes of a file that passes by."""

    def __init__(self, header: bytes) -> None:
        """``header``: with its length before it, of a file with the metadata ``of_the_training`` alone."""
        self._model, self._legacy, self._passed = hashlib.sha256(), hashlib.sha256(), 0
        self._look(header)

    def update(self, content: bytes | memoryview) -> None:
        """The next bytes of the tensors."""
        self._model.update(content)
        self._look(content)

    def metadata(self) -> dict[str, str]:
        """The hashes of what has passed."""
        return {MODEL_HASH: self._model.hexdigest(), LEGACY_HASH: self._legacy.hexdigest()[:8]}

    def _look(self, content: bytes | memoryview) -> None:
        first = LEGACY_FROM - self._passed
        self._legacy.update(content[max(first, 0) : max(first + LEGACY_BYTES, 0)])
        self._passed += len(content)
