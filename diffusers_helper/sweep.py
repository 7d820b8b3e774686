"""Several pictures of one request, one after the other by the same engine, and all of them on one sheet.

What the requests have in common is encoded once: the engine keeps what it has encoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from .errors import InvalidRequest
from .events import Events, Finished
from .generate import GenerationEngine, generate, until_finished
from .media.files import require_writable
from .media.fit import Fitted
from .media.grid import labelled_grid
from .media.metadata import write_png
from .media.pictures import open_picture
from .models.table import Checkpoint
from .preparation import check_offered, fit_pictures
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
    targets = [sheet.with_name(f"{sheet.stem}_{number:03}{sheet.suffix}") for number in range(1, len(requests) + 1)]
    fitted = _fitted(requests, targets, engine.checkpoint)
    finished: Finished | None = None
    for request, target in zip(requests, targets, strict=True):
        pictures = fitted[request.size]
        finished = yield from until_finished(generate(request, engine, output_dir, target, pictures=pictures))
        if finished is None:
            return
    if finished:
        columns = len(axes[-1].values) if len(axes) > 1 else math.ceil(math.sqrt(len(targets)))
        write_png(sheet, labelled_grid([open_picture(path) for path in targets], cell_labels(axes), columns), {})
        yield replace(finished, path=str(sheet))


def _fitted(
    requests: Sequence[Request], targets: Sequence[Path], checkpoint: Checkpoint
) -> dict[str | None, tuple[Fitted, ...]]:
    """The pictures by the size that is asked for, opened before anything is written over them.

    Raises:
        InvalidRequest: the checkpoint does not make one of the requests, or a picture would be written over.
        OutputFailed: a picture could not be written.
    """
    for request in requests:
        check_offered(request, checkpoint)
    given = {Path(path).resolve() for path in requests[0].picture_paths}
    for target in targets:
        if target.resolve() in given:
            raise InvalidRequest(f"--out: {target} is one of the given pictures; give another name")
        require_writable(target)
    return {request.size: fit_pictures(request, checkpoint) for request in requests}


def cell_labels(axes: Sequence[Axis]) -> list[str]:
    """What is written over each picture, in the order of ``cells``."""
    return [", ".join(labels) for labels in product(*(axis.labels for axis in axes))]
