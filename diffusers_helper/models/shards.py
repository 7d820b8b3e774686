"""The weights files of a part, read tensor by tensor: for what needs a few of them, or one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UnusableCheckpoint

INDEX = "*.safetensors.index.json"


class Shards(Mapping[str, Tensor]):
    """Name -> tensor as it is in the files, on the CPU. Holds no tensor itself.

    Args:
        folder: of one part, in diffusers' layout: one safetensors file, or several with an index.

    Raises:
        UnusableCheckpoint: at once or while reading, when a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._files = _files_by_name(folder)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UnusableCheckpoint(_damaged(folder, error)) from error

    def __getitem__(self, name: str) -> Tensor:
        file = self._files[name]
        try:
            with safe_open(file, "pt") as opened:
                return opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise UnusableCheckpoint(_damaged(file, error)) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _files_by_name(folder: Path) -> dict[str, Path]:
    index = next(folder.glob(INDEX), None)
    if index is not None:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in named.items()}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError("there is no safetensors file")
    return {name: file for file in files for name in _names(file)}


def _names(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        return list(opened.keys())


def _damaged(path: Path, error: Exception) -> str:
    return f"the weights in {path} are damaged or incomplete: {error}. Fetch them again."
