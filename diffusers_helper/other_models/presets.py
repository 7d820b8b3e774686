"""The published settings, a row per model (``presets.json``): figures of ComfyUI-MagCache, measured by its authors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..errors import UnusableArgument


@dataclass(frozen=True)
class Preset:
    """A row.

    Attributes:
        name: the model's, as the published table has it.
        transformer: the class of diffusers that it is for.
        always: places in ``ratios`` whose steps are computed whatever the sums say.
        ratios: a list for each branch of the guidance, first the one with the prompt; one list serves both.
    """

    name: str
    transformer: str
    threshold: float
    retention_ratio: float
    k: int
    always: tuple[int, ...]
    ratios: tuple[tuple[float, ...], ...]


def _read() -> dict[str, Preset]:
    rows = json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf-8"))
    for row in rows.values():
        row["always"], row["ratios"] = tuple(row["always"]), tuple(map(tuple, row["ratios"]))
    return {name: Preset(name, **row) for name, row in rows.items()}


PRESETS: Mapping[str, Preset] = MappingProxyType(_read())


def preset_named(name: str) -> Preset:
    """The row of that name; capitals and signs between the letters do not count. Raises UnusableArgument."""
    for preset in PRESETS.values():
        if _plain(preset.name) == _plain(name):
            return preset
    raise UnusableArgument(f"There is no preset {name!r}. There are: {', '.join(PRESETS)}.")


def _plain(name: str) -> str:
    return "".join(letter for letter in str(name).lower() if letter.isalnum())
