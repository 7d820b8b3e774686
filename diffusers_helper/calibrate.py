"""Several calibrations as one: MagCache's ratios of a checkpoint, as the mean over a list of pictures and prompts.

A video of its own is made of each, without reusing a step. What counts in the end is the mean over all their sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from .caches.magcache import mean_of
from .errors import CancelRequested, InvalidRequest
from .events import Calibrated, Events, Finished
from .generate import GenerationEngine, generate
from .request import Request


def pairs(pictures: Sequence[str], prompts: Sequence[str]) -> list[tuple[str, str]]:
    """Each picture with its prompt; one prompt is for all of them. Raises InvalidRequest."""
    if len(prompts) == 1:
        prompts = list(prompts) * len(pictures)
    if len(prompts) != len(pictures):
        counts = f"{len(prompts)} for {len(pictures)} pictures"
        raise InvalidRequest(f"--prompt: {counts}; give one for each, or one for all")
    return list(zip(pictures, prompts, strict=True))


def calibrate(requests: Sequence[Request], engine: GenerationEngine, output_dir: Path) -> Events:
    """Make the videos; ends with ``Calibrated`` for all of them, or with what ended one of them early.

    One that is broken off keeps nothing of its own; those that were finished before it count.
    """
    sections: list[list[float]] = []
    for request in requests:
        with closing(generate(request, engine, output_dir)) as events:
            for event in events:
                if isinstance(event, Calibrated):
                    sections += event.sections
                try:
                    yield event
                except CancelRequested as wish:
                    yield events.throw(wish)
                    return
        if not isinstance(event, Finished):
            return
    mean = mean_of(sections)
    engine.checkpoint.keep_ratios(mean)
    yield Calibrated(checkpoint=engine.checkpoint.name, sections=sections, mean=list(mean))
