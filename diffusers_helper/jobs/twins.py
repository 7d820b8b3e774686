"""The twin of a job: another of the same request but for the step cache, to be looked at side by side."""

from __future__ import annotations

from ..caches.auto import AutoOption
from ..request import Recipe, Request
from .job import Job


def reuses(recipe: Recipe) -> bool:
    """Whether it asks for steps that are not computed."""
    cache = recipe.step_cache
    return cache is not None and not cache.calibrates


def counterpart(request: Request) -> Request:
    """The same with every step computed; of one that does so, the same with the usual step cache."""
    return request.model_copy(update={"step_cache": None if reuses(request) else AutoOption()})


def as_made(job: Job) -> Request:
    """The request with the seed that was drawn for it."""
    seed = job.progress.seed
    return job.request if seed is None else job.request.model_copy(update={"seed": seed})
