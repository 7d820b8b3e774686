"""The one source of a part's weights: its files as a mapping, name -> tensor.

Whatever has this form can stand between the files and a model, such as weights that something is added to: see
``WeightChange``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UnusableCheckpoint
from ..words import Message, joined
from .table import FETCH_AGAIN

INDEX = "*.safetensors.index.json"
WeightSource = Mapping[str, Tensor]
"""Name -> tensor, asked for one tensor after the other, and for some more than once."""


class WeightChange(Protocol):
    """Stands between the files and every use of their weights: makes another source of a source, of the same names and
    shapes."""

    @property
    def content(self) -> str:
        """What it does, in a few characters of a file's name: the same for the same change and for no other."""

    @property
    def names(self) -> Collection[str]:
        """The weights that it changes."""

    def __call__(self, source: WeightSource) -> WeightSource:
        """The changed source. Its tensors may be in float32, and on the device that computes."""


class Shards(Mapping[str, Tensor]):
    """Name -> tensor as it is in the files, mapped: it takes no RAM that the system could not have back.

    The files stay open. One that is replaced meanwhile is read as it was.

    Args:
        folder: of one part, in diffusers' layout: one safetensors file, or several with an index.
        part: its name, for errors.

    Raises:
        UnusableCheckpoint: at once or while reading, when a file is missing or damaged.
    """

    def __init__(self, folder: Path, part: str = "transformer") -> None:
        self.folder, self._part = folder, part
        self._opened: dict[Path, Any] = {}
        try:
            self._files = self._files_by_name()
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise damaged(part, folder, error) from error

    def __getitem__(self, name: str) -> Tensor:
        file = self._files[name]
        try:
            tensor: Tensor = self._open(file).get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise damaged(self._part, file, error) from error
        return tensor

    def __contains__(self, name: object) -> bool:
        """Without reading."""
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _files_by_name(self) -> dict[str, Path]:
        index = next(self.folder.glob(INDEX), None)
        if index is not None:
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {name: self.folder / file for name, file in named.items()}
        files = sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError("there is no safetensors file")
        return {name: file for file in files for name in self._open(file).keys()}  # noqa: SIM118 - it is no mapping

    def _open(self, file: Path) -> Any:
        """Once: each opening would map the whole file again."""
        if file not in self._opened:
            self._opened[file] = safe_open(file, "pt")
        return self._opened[file]


def damaged(part: str, place: Path, error: Exception) -> UnusableCheckpoint:
    """The error for files that cannot be read as what they should be."""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    told = Message("checkpoint.part_of_another", part=part, place=str(place), reason=first_line)
    return UnusableCheckpoint(joined(told, FETCH_AGAIN))
