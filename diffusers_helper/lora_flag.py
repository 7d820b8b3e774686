"""The flag ``--lora`` of ``generate``: LoRAs for one video, by their files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .request import Request
from .settings import Settings, given_path

if TYPE_CHECKING:
    from .lora.shelf import Shelf
    from .models.table import Checkpoint


FIELD = "loras"
"""What a request calls them; their flag is another, since it names files."""
WEIGHTS = ("weight", "weight_at_end")
"""Of a LoRA, in the order in which they are written."""


def add_flag(parser: argparse._ArgumentGroup) -> None:
    """Its values are texts until ``take`` has found the files."""
    words = (
        "a LoRA, a file or its name on the shelf, and how strongly it acts (default 1); FILE:WEIGHT:WEIGHT goes from "
        "the one to the other, section by section; repeatable"
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
    given = [(_file(file, Shelf(folder)), weights) for file, weights in map(split_weights, options.loras)]
    shelf = Shelf(folder, [path for path, _ in given])
    options.loras = [_lora(path, weights, shelf) for path, weights in given]
    return shelf


def split_weights(text: str) -> tuple[str, dict[str, float]]:
    """File, and what it says of a request's LoRA; a colon that no number follows belongs to the file's name."""
    file, weights = text, list[float]()
    while len(weights) < len(WEIGHTS):
        before, _, number = file.rpartition(":")
        if not before or not _is_number(number):
            break
        file, weights = before, [float(number), *weights]
    return file, dict(zip(WEIGHTS, weights, strict=False))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _file(text: str, shelf: Shelf) -> Path:
    """The file of that path, else the one of that name on the shelf."""
    path = given_path(text, "--lora")
    return path if path.exists() else shelf.path(text) or path


def _lora(path: Path, weights: dict[str, float], shelf: Shelf) -> dict[str, Any]:
    from .lora.file import open_lora
    from .lora.header import not_read

    open_lora(path)
    try:
        return {"name": shelf.name_of(path), "sha256": shelf.sha256(path), **weights}
    except OSError as error:
        raise not_read(path, error) from None


def check(request: Request, checkpoint: Checkpoint, shelf: Shelf | None, chosen: Settings) -> None:
    """Raises UnusableLora for a LoRA that is not there or does not fit the checkpoint; before its weights are read."""
    if not request.loras:
        return
    from .lora.bases import shapes_in
    from .lora.shelf import Shelf, shelf_folder
    from .loras import open_loras

    found = shelf or Shelf(shelf_folder(chosen.paths.models_dir))
    open_loras(request.loras, shapes_in(checkpoint.folders["transformer"]), found)
