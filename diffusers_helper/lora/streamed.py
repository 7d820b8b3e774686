"""A safetensors file written tensor by tensor, and the two hashes by which other programs know a LoRA.

The hashes stand in the header and are made of what follows it, so they are filled in at the end; their lengths are
known. Both are kohya's: ``sshs_model_hash`` is the SHA-256 of the tensors' bytes, ``sshs_legacy_hash`` the first eight
digits of that of 64 KiB at 1 MiB of a file which has of all metadata only the training's, ``ss_...``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from ..models.streamed_file import Layout, content, header

MODEL_HASH, LEGACY_HASH = "sshs_model_hash", "sshs_legacy_hash"
LEGACY_FROM, LEGACY_BYTES = 2**20, 2**16


def write_streamed(target: Path, layout: Layout, metadata: Mapping[str, str], tensors: Iterable[Tensor]) -> None:
    """Write ``tensors``, which come in the order of ``layout`` and one at a time. Raises OSError.

    Args:
        metadata: kept but for the two hashes, which are computed.
    """
    hashes = KohyaHashes(header(layout, of_the_training(metadata)))
    empty = {**metadata, MODEL_HASH: "0" * 64, LEGACY_HASH: "0" * 8}
    with target.open("w+b") as file:
        file.write(header(layout, empty))
        for tensor in tensors:
            passing = content(tensor)
            file.write(passing)
            hashes.update(passing)
        file.seek(0)
        file.write(header(layout, {**empty, **hashes.metadata()}))


def of_the_training(metadata: Mapping[str, str]) -> dict[str, str]:
    """All metadata that the legacy hash knows of."""
    return {name: text for name, text in metadata.items() if name.startswith("ss_")}


class KohyaHashes:
    """Both hashes of a file that passes by."""

    def __init__(self, head: bytes) -> None:
        """``head``: of a file with the metadata ``of_the_training`` alone, with its length before it."""
        self._model, self._legacy, self._passed = hashlib.sha256(), hashlib.sha256(), 0
        self._look(head)

    def update(self, passing: bytes | memoryview) -> None:
        """The next bytes of the tensors."""
        self._model.update(passing)
        self._look(passing)

    def metadata(self) -> dict[str, str]:
        """The hashes of what has passed."""
        return {MODEL_HASH: self._model.hexdigest(), LEGACY_HASH: self._legacy.hexdigest()[:8]}

    def _look(self, passing: bytes | memoryview) -> None:
        first = LEGACY_FROM - self._passed
        self._legacy.update(passing[max(first, 0) : max(first + LEGACY_BYTES, 0)])
        self._passed += len(passing)
