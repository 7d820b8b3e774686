"""Several pictures of one request, one after the other by the same engine, and all of them on one sheet.

What the requests have in common is encoded once: the engine keeps what it has encoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from .events import Events, Finished, until_finished
from .generate import GenerationEngine, generate
from .media.grid import labelled_grid
from .media.metadata import write_png
from .media.pictures import open_picture
from .preparation import check_offered
from .request import Request
from .request.sweep import Axis


def sweep(
    axes: Sequence[Axis],
    requests: Sequence[Request],
    engine: GenerationEngine,
    output_dir: Path,
    sheet: Path,
) -> Events:
    """Make the pictures of a sweep, beside ``sheet`` by its name and their number, and then the sheet itself.

    ``finished`` is told once, of the sheet; whatever else ends a picture ends the sweep.
    """
    for request in requests:
        check_offered(request, engine.checkpoint)
    made: list[Path] = []
    finished: Finished | None = None
    for number, request in enumerate(requests):
        target = sheet.with_name(f"{sheet.stem}_{number + 1:03}{sheet.suffix}")
        finished = yield from until_finished(generate(request, engine, output_dir, target))
        if finished is None:
            return
        made.append(target)
    if finished:
        labels = cell_labels(axes)
        columns = len(axes[-1].values) if len(axes) > 1 else math.ceil(math.sqrt(len(made)))
        write_png(sheet, labelled_grid([open_picture(path) for path in made], labels, columns), {})
        yield replace(finished, path=str(sheet))


def cell_labels(axes: Sequence[Axis]) -> list[str]:
    """What is written over each picture, in the order of ``cells``."""
    return [", ".join(labels) for labels in product(*(axis.labels for axis in axes))]
