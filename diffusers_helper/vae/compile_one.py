"""A process that compiles one decoder and ends: beside the one that makes videos, and after it in everything.

    python -m diffusers_helper.vae.compile_one FILE.pt2 TASK

TASK is JSON, see ``Task``. What goes wrong here, a crash of a compiler included, breaks no video. When whoever has
started it goes, its standard input ends, and so does this process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from .back_ends import BACK_ENDS
from .upper import Given, PureUpperPart, Shape, expected, without_weights

STOPPED = 3
LOWEST_PRIORITY = 19


@dataclass(frozen=True)
class Task:
    """What to compile.

    Attributes:
        shape: of the latents of a chunk, batch, frames, rows and columns.
        config: of the VAE.
    """

    back_end: str
    shape: Shape
    dtype: str
    device: str
    config: dict[str, Any]

    def to_json(self) -> str:
        """As ``from_json`` reads it."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Task:
        """From this program's own."""
        values = json.loads(text)
        return cls(**{**values, "shape": tuple(values["shape"])})


def exported(task: Task) -> tuple[Any, Given]:
    """The upper part as a program for one shape, and what its inputs are like; no memory is taken for them."""
    vae = without_weights(task.config, getattr(torch, task.dtype))
    with torch.no_grad():
        meta = expected(vae, task.shape)
        with FakeTensorMode():
            weights, x, *kept = ([_like(each, task.device) for each in part] for part in _parts(meta))
            given = Given(weights, x[0], kept[0])
        return torch.export.export(PureUpperPart(vae), tuple(given), strict=False), given


def _parts(given: Given) -> tuple[list[torch.Tensor], ...]:
    return given.weights, [given.x], given.kept


def _like(tensor: torch.Tensor, device: str) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


def main(file: str, task: str) -> None:
    """Compile."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(LOWEST_PRIORITY)
    asked = Task.from_json(task)
    program, given = exported(asked)
    BACK_ENDS[asked.back_end]().compile(program, given, Path(file))


def _end_with_stdin() -> None:
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read, which holds a lock that the end of a process wants
    os._exit(STOPPED)


if __name__ == "__main__":
    main(*sys.argv[1:])
