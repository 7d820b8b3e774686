"""How long a request will take on this machine, learnt from the jobs that it has finished."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from ..request import Request
from ..sections.plan import plan_video
from .job import Job

LATEST = 20


def estimate_seconds(request: Request, finished: Iterable[Job], checkpoint: str) -> float | None:
    """Sampling and decoding time of ``request``; None before a job of this checkpoint was done.

    A step's time grows with the pixels, the latent window and the number of branches; a decode's with the pixels and
    the window. Jobs with the same step cache setting count when there are any, since reused steps cost next to nothing.
    """
    known = [job for job in finished if job.progress.checkpoint == checkpoint and job.progress.steps_computed]
    alike = [job for job in known if _cache(job.request) == _cache(request)] or known
    if not alike:
        return None
    alike = alike[-LATEST:]
    pixels = _pixels(request.size) or median(job.progress.width * job.progress.height for job in alike)
    sections = len(plan_video(request.kind, request.seconds, request.latent_window, request.fps).sections)
    step = median(_step_seconds(job) for job in alike) * _branches(request)
    decode = median(_decode_seconds(job) for job in alike)
    return (step * request.steps + decode) * sections * pixels * request.latent_window


def _step_seconds(job: Job) -> float:
    """Of one step, per pixel, latent frame and branch."""
    told = job.progress
    steps = told.steps_computed + told.steps_reused
    size = told.width * told.height * job.request.latent_window
    return told.seconds_sampling / (steps * size * _branches(job.request))


def _decode_seconds(job: Job) -> float:
    """Of one section, per pixel and latent frame. A resumed job decoded fewer; the difference is small."""
    told = job.progress
    return told.seconds_decoding / (told.sections * told.width * told.height * job.request.latent_window)


def _cache(request: Request) -> tuple[bool, float]:
    return request.teacache, request.teacache_threshold if request.teacache else 0.0


def _branches(request: Request) -> int:
    return 2 if request.real_cfg > 1 else 1


def _pixels(size: str | None) -> int | None:
    if size is None:
        return None
    width, height = size.split("x")
    return int(width) * int(height)
