"""A job beside its twin: both videos on the screen, and below it what each took and how alike they are.

Functions of the two jobs, of their videos being there, and of what is known of their likeness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..jobs.job import UNFINISHED, Job
from ..media.likeness import Likeness
from ..words import Texts
from . import acts
from .likenesses import Found, Likenesses
from .phrases import duration, say
from .screen import film, has_video, is_film
from .speed import cache_in_words
from .strips import reused


@dataclass(frozen=True)
class Pair:
    """A job and its twin, None where that has been deleted; and how alike they are."""

    job: Job
    twin: Job | None
    likeness: Found = None

    @property
    def is_shown(self) -> bool:
        """Whether the two videos can be looked at side by side."""
        return self.hindrance(Texts()) == ""

    def hindrance(self, texts: Texts) -> str:
        """Why they cannot be looked at side by side; empty where they can."""
        if self.twin is None:
            return texts("job.twin_deleted", twin=self.job.twin)
        for each in (self.twin, self.job):
            if each.state != "done":
                return texts(_unready(each), job=each.id, state=texts(f"job.state_{each.state}"))
            if not has_video(each):
                return texts("job.twin_gone", job=each.id)
            if not is_film(each):
                return texts("job.twin_no_film", job=each.id)
        this, that = (_shape(each, texts) for each in (self.job, self.twin))
        return "" if this == that else texts("job.twin_unlike", one=this, other=that)


def _unready(job: Job) -> str:
    return "job.twin_unfinished" if job.state in UNFINISHED else "job.twin_waits"


def _shape(job: Job, texts: Texts) -> str:
    progress = job.progress
    return texts("job.shape", width=progress.width, height=progress.height, frames=progress.frames)


def pair_of(job: Job, jobs: Sequence[Job], likenesses: Likenesses) -> Pair | None:
    """The job with its twin among ``jobs``; None where it is compared with none."""
    if not job.twin:
        return None
    twin = next((other for other in jobs if other.id == job.twin), None)
    pair = Pair(job, twin)
    if not (twin and pair.is_shown):
        return pair
    try:
        return Pair(job, twin, likenesses.of(*(Path(each.progress.video or "") for each in _in_order(job, twin))))
    except OSError:  # A video has gone this moment.
        return pair


def _in_order(*jobs: Job) -> list[Job]:
    """From whichever of the two one looks, the same two are compared."""
    return sorted(jobs, key=lambda job: job.id)


def twin_shot(pair: Pair | None, texts: Texts) -> str:
    """The twin's video for the screen, and what stands over both; the script keeps it in step with the job's."""
    if pair is None or pair.twin is None or not pair.is_shown:
        return ""
    label = say(texts, "job.twin_video", job=pair.twin.id)
    return film(pair.twin, "twin", label, caption(pair.twin, texts), 'muted loop playsinline preload="auto"')


def caption(job: Job, texts: Texts) -> str:
    """What stands over one of two videos: whose it is, and with which step cache."""
    cache = cache_in_words(job.request.flat(), texts)
    return f"<figcaption>{say(texts, 'job.twin_caption', job=job.id, cache=cache)}</figcaption>"


def comparison(pair: Pair | None, texts: Texts) -> str:
    """Both in a table with how alike they are, or why there is nothing to compare yet or any more."""
    if pair is None:
        return ""
    title = f"<h3>{say(texts, 'job.compared', job=pair.job.twin)}</h3>"
    hindrance = pair.hindrance(texts)
    if pair.twin is None or hindrance:
        told = f'<p class="notice">{escape(hindrance)}</p>{_anew(pair, texts)}'
    else:
        told = _table((pair.job, pair.twin), texts)
        told += f'<p role="status">{_alike(pair.likeness, texts)}</p>'
    return f'<section class="strip pair">{title}{told}</section>'


def _anew(pair: Pair, texts: Texts) -> str:
    """Another twin for a finished job whose first one came to nothing."""
    if pair.job.state != "done" or (pair.twin and pair.twin.state in ("queued", "running")):
        return ""
    return acts.button(acts.comparing(pair.job, texts))


def _table(jobs: Sequence[Job], texts: Texts) -> str:
    rows: Sequence[tuple[str, Callable[[Job], str]]] = (
        ("job.pair_cache", lambda job: cache_in_words(job.request.flat(), texts)),
        ("job.pair_took", lambda job: duration(job.progress.totals.seconds_total, texts)),
        ("job.pair_steps", lambda job: reused(job.progress.totals, texts) or texts("job.all_computed")),
    )
    heads = "".join(f'<th scope="col">{say(texts, "job.title", job=job.id)}</th>' for job in jobs)
    body = "".join(
        f'<tr><th scope="row">{say(texts, key)}</th>{"".join(f"<td>{escape(told(job))}</td>" for job in jobs)}</tr>'
        for key, told in rows
    )
    return f"<table><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _alike(found: Found, texts: Texts) -> str:
    if found is None:
        return say(texts, "job.alike_measuring")
    if not isinstance(found, Likeness):
        return escape(texts.said(found))
    if math.isinf(found.psnr):
        return say(texts, "job.alike_same")
    return say(texts, "job.alike", psnr=f"{found.psnr:.1f}", ssim=f"{found.ssim:.3f}")
