"""The jobs that were queued together: their results as a grid on the stage, each with what tells it from the others.

Functions of the jobs, and of which of their results are still there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UnusableInput
from ..jobs.job import Job
from ..media.grid import labelled_grid
from ..media.stills import last_still
from ..request.fields import PICTURES
from ..words import Texts
from .icons import svg
from .loras import LORAS, in_words
from .phrases import field_value, say
from .screen import has_video, poster_address

IGNORED = (PICTURES,)
"""Of a request's values, what is copied for every job."""


def batch_of(job: Job, jobs: Sequence[Job]) -> list[Job]:
    """The jobs that were queued together with ``job`` and are still there, in their order; itself among them."""
    return sorted((other for other in jobs if other.batch and other.batch == job.batch), key=lambda other: other.id)


def batch(job: Job, jobs: Sequence[Job], texts: Texts) -> str:
    """All of them as cells; a click shows one on the stage. Empty where a job was queued by itself."""
    together = batch_of(job, jobs)
    if len(together) < 2:
        return ""
    labels, columns = labels_of(together, texts), columns_of(together)
    cells = "".join(_cell(each, each == job, labels[each.id], texts) for each in together)
    title = f"<h3>{say(texts, 'job.batch', count=len(together))}</h3>"
    ready = sum(each.state == "done" and has_video(each) for each in together)
    sheet = _sheet(job, texts) if ready > 1 else ""
    grid = f'<ul class="cells" data-parts="batch" style="--columns: {columns}">{cells}</ul>'
    return f'<section class="strip batch">{title}{sheet}{grid}</section>'


def _cell(job: Job, shown: bool, label: str, texts: Texts) -> str:
    picture = f'<img src="{poster_address(job)}" alt="" loading="lazy">' if has_video(job) else ""
    state = (
        "" if job.state == "done" else f'<span class="state {job.state}">{say(texts, f"job.state_{job.state}")}</span>'
    )
    current = ' aria-current="true"' if shown else ""
    return (
        f'<li><button type="button" class="cell {job.state}" data-wish="show={job.id}"{current}>'
        f"<span class='cell-picture'>{picture}{state}</span><span>{escape(label)}</span></button></li>"
    )


def _sheet(job: Job, texts: Texts) -> str:
    name = f"batch_{job.batch}.png"
    return (
        f'<a class="q-button" href="media/{job.id}/sheet.png" download="{name}">{svg("save")}'
        f"<span>{say(texts, 'job.batch_sheet')}</span></a>"
    )


def labels_of(jobs: Sequence[Job], texts: Texts) -> dict[int, str]:
    """Of each job, by its number, the values that are not the same in all of them."""
    flat = {job.id: job.request.flat() for job in jobs}
    names = _differing(flat)
    return {job.id: ", ".join(_said(name, flat[job.id].get(name), texts) for name in names) for job in jobs}


def _differing(flat: Mapping[int, Mapping[str, Any]]) -> list[str]:
    known = dict.fromkeys(name for each in flat.values() for name in each if name not in IGNORED)
    return [name for name in known if len({repr(each.get(name)) for each in flat.values()}) > 1]


def _said(name: str, value: Any, texts: Texts) -> str:
    if name == LORAS:
        return in_words(value or ())
    key = f"generate.{name}"
    return f"{texts(key) if key in texts else name} {field_value(name, value, texts)}"


def columns_of(jobs: Sequence[Job]) -> int:
    """As many as the value has that changes from each cell to the next; of one list so many that the grid is square."""
    flat = {job.id: job.request.flat() for job in jobs}
    names = _differing(flat)
    if len(names) < 2:
        return math.ceil(math.sqrt(len(jobs)))
    changing = {name: len({repr(each.get(name)) for each in flat.values()}) for name in names}
    first, second = (flat[job.id] for job in jobs[:2])
    return next((changing[name] for name in names if first.get(name) != second.get(name)), len(jobs))


def sheet(job: Job, jobs: Sequence[Job]) -> np.ndarray:
    """The results of a batch on one labelled sheet, uint8 [H, W, 3]. Raises UnusableInput where there are none."""
    together = [each for each in batch_of(job, jobs) if has_video(each)]
    if not together:
        raise UnusableInput(f"no job of batch {job.batch} has a result")
    labels = labels_of(together, Texts())
    stills = [last_still(Path(each.progress.video or "")) for each in together]
    return labelled_grid(stills, [labels[each.id] for each in together], columns_of(together))
