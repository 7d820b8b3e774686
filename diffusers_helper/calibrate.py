"""Several calibrations as one: MagCache's ratios of a checkpoint, as the mean over a list of pictures and prompts.

A video of its own is made of each, without reusing a step. What counts in the end is the mean over all their sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

from .errors import CancelRequested, InvalidRequest
from .events import Calibrated, Event, Events, Finished
from .generate import GenerationEngine, calibrated, generate, until_finished
from .media.fit import Fitted
from .request import Request


def pairs(pictures: Sequence[str], prompts: Sequence[str]) -> list[tuple[str, str]]:
    """Each picture with its prompt; one prompt is for all of them. Raises InvalidRequest."""
    if len(prompts) == 1:
        prompts = list(prompts) * len(pictures)
    if len(prompts) != len(pictures):
        counts = f"{len(prompts)} for {len(pictures)} pictures"
        raise InvalidRequest(f"--prompt: {counts}; give one for each, or one for all")
    return list(zip(pictures, prompts, strict=True))


def calibrate(
    requests: Sequence[Request],
    engine: GenerationEngine,
    output_dir: Path,
    pictures: Sequence[Sequence[Fitted] | None] = (),
) -> Events:
    """Make the videos. ``Calibrated`` for all of them comes before the last event; broken off, nothing is kept.

    ``pictures``: what ``fit_pictures`` made of each request, where that was asked before.
    """
    sections: list[list[float]] = []
    finished: Finished | None = None
    for request, fitted in zip_longest(requests, pictures):
        if finished:
            yield finished
        video = generate(request, engine, output_dir, pictures=fitted, keep_ratios=False)
        finished = yield from until_finished(video, lambda event: _measured(event, sections))
        if finished is None:
            return
    for event in calibrated(sections, engine.checkpoint):
        with suppress(CancelRequested):  # it is done
            yield event
    if finished:
        yield finished


def _measured(event: Event, sections: list[list[float]]) -> None:
    """What a calibration has measured joins ``sections``."""
    if isinstance(event, Calibrated):
        sections += event.sections
