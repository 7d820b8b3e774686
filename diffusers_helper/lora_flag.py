"""The flag ``--lora`` of ``generate``: LoRAs for one video, by their files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .names import shown
from .request import Request
from .settings import Settings, given_path
from .words import Message

if TYPE_CHECKING:
    from .lora.shelf import Shelf
    from .models.table import Checkpoint


FIELD = "loras"
"""What a request calls them; their flag is another, since it names files."""


def add_flag(parser: argparse._ArgumentGroup) -> None:
    """Its values are texts until ``take`` has found the files."""
    words = (
        "a LoRA beside the weights, a file or its name on the shelf, and how strongly it acts (default 1); repeatable"
    )
    parser.add_argument("--lora", dest=FIELD, metavar="FILE:WEIGHT", action="append", help=words)


def take(options: argparse.Namespace, chosen: Settings) -> Shelf | None:
    """Turn what was written for LoRAs into a request's; returns where they are found, None where there is none.

    Raises:
        UnusableLora: a file is missing or is no LoRA.
        InvalidRequest: nothing can have such a name.
    """
    if options.loras is None:
        return None
    from .lora.shelf import Shelf, shelf_folder

    folder = shelf_folder(chosen.paths.models_dir)
    given = [(_file(file, Shelf(folder)), weight) for file, weight in map(split_weight, options.loras)]
    shelf = Shelf(folder, [path for path, _ in given])
    options.loras = [_lora(path, weight, shelf) for path, weight in given]
    return shelf


def split_weight(text: str) -> tuple[str, float]:
    """File and weight; a colon that no number follows belongs to the file's name."""
    file, _, weight = text.rpartition(":")
    try:
        return (file, float(weight)) if file else (text, 1.0)
    except ValueError:
        return text, 1.0


def _file(text: str, shelf: Shelf) -> Path:
    """The file of that path, else the one of that name on the shelf."""
    path = given_path(text, "--lora")
    return path if path.exists() else shelf.path(text) or path


def _lora(path: Path, weight: float, shelf: Shelf) -> dict[str, Any]:
    from .lora.file import open_lora, refused

    open_lora(path)
    try:
        return {"name": shelf.name_of(path), "sha256": shelf.sha256(path), "weight": weight}
    except OSError as error:
        raise refused(path, Message("lora.not_read", reason=error.strerror or shown(error))) from None


def check(request: Request, checkpoint: Checkpoint, shelf: Shelf | None, chosen: Settings) -> None:
    """Raises UnusableLora for a LoRA that is not there or does not fit the checkpoint; before its weights are read."""
    if not request.loras:
        return
    from .lora.bases import shapes_in
    from .lora.shelf import Shelf, shelf_folder
    from .loras import open_loras

    found = shelf or Shelf(shelf_folder(chosen.paths.models_dir))
    open_loras(request.loras, shapes_in(checkpoint.folders["transformer"]), found)
