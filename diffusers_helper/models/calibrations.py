"""What calibrations on this machine have measured: MagCache's ratios of a checkpoint, a list per number of steps.

They are kept by the checkpoint's fingerprint, so that a folder that is moved keeps its own and one that is changed has
none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self  # typing has it only from Python 3.11 on

from ..caches.magcache import DECIMALS

log = logging.getLogger(__name__)

Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratios = Annotated[tuple[Ratio, ...], Field(min_length=1, max_length=100)]
"""A number per step."""


class Calibrations(BaseModel):
    """A file of them: number of steps -> ratios."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    ratios: dict[int, Ratios] = {}

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if any(len(ratios) != steps for steps, ratios in self.ratios.items()):
            raise ValueError("a list must have a number for each step")
        return self


def kept_ratios(folder: Path, fingerprint: str) -> tuple[tuple[float, ...], ...]:
    """Those of a checkpoint. A file that cannot be used is logged, and counts for nothing."""
    file = _file(folder, fingerprint)
    try:
        return tuple(Calibrations.model_validate_json(file.read_bytes()).ratios.values())
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        log.warning("%s cannot be used: %s", file, error)
        return ()


def keep_ratios(folder: Path, fingerprint: str, ratios: Sequence[float]) -> Path:
    """Keeps them in the place of those of the same number of steps; returns the file. Raises OutputFailed."""
    from ..media.files import make_folder, written_whole  # brings PyAV, which a look for checkpoints does without

    make_folder(folder)
    file = _file(folder, fingerprint)
    others = {len(kept): kept for kept in kept_ratios(folder, fingerprint)}
    kept = {**others, len(ratios): tuple(round(ratio, DECIMALS) for ratio in ratios)}
    with written_whole(file) as part:
        part.write_text(json.dumps(Calibrations(ratios=kept).model_dump(), indent=1), encoding="utf-8")
    return file


def _file(folder: Path, fingerprint: str) -> Path:
    return folder / f"{fingerprint}.json"
