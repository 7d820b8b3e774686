"""Shelves for tests of the page: LoRAs of a small transformer, and a checkpoint that has one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusers_helper.lora.watch import Watch
from diffusers_helper.models.table import Checkpoint

from ..jobs_support import wait_until
from ..lora.building import SHAPES, Built

EMPTY_LORA = (2).to_bytes(8, "little") + b"{}"
"""A sound file without a tensor."""


def shelf_of(folder: Path) -> Path:
    """That of a stage or a server in ``folder``."""
    shelf = folder / "models" / "lora"
    shelf.mkdir(parents=True, exist_ok=True)
    return shelf


def put_on_shelf(folder: Path, name: str, built: Built | None = None) -> str:
    """Put a file there; returns its content's hash."""
    file = shelf_of(folder) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if built:
        built.write(file.parent, file.name)
    else:
        file.write_bytes(EMPTY_LORA)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def small_checkpoint(folder: Path) -> Checkpoint:
    """One whose transformer is that of the builders of LoRAs; nothing else of it is there."""
    transformer = folder / "small" / "transformer"
    transformer.mkdir(parents=True, exist_ok=True)
    weights = {f"{name}.weight": torch.zeros(shape) for name, shape in SHAPES.items()}
    save_file({**weights, "norm.weight": torch.zeros(3)}, transformer / "model.safetensors")
    return Checkpoint("small", "small", ("f1", "framepack"), {"transformer": transformer}, ((64, 64),))


def looked(watch: Watch) -> Watch:
    """The same, once it has seen and read what lies there now."""
    wait_until(lambda: not watch._is_looking, "the end of looking")
    watch._next_look = -1.0
    watch.files()
    wait_until(lambda: watch.has_looked and not watch._is_looking, "the files")
    return watch
