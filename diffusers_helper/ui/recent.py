"""The last results, small, below the stage: a click shows one there. A function of the jobs whose videos are there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from ..jobs.job import ENDED, Job
from ..words import Texts
from .icons import svg
from .phrases import number, say
from .screen import has_video, makes_picture, picture_address, poster_address

MOST = 12


def recent(jobs: Sequence[Job], shown: Job, texts: Texts) -> str:
    """The running jobs and the newest that have a video; empty while there is nothing but what the stage shows."""
    running = [job for job in jobs if job.state == "running"]
    made = list(islice((job for job in jobs if job.state in ENDED and has_video(job)), MOST))
    if [*running, *made] in ([], [shown]):
        return ""
    cards = "".join(_card(job, job == shown, job in running[:1], texts) for job in (*running, *made))
    title = f"<h3>{say(texts, 'job.recent')}</h3>"
    return f'{title}<ul class="recent" data-parts="recent">{cards}</ul>'


def _card(job: Job, shown: bool, at_work: bool, texts: Texts) -> str:
    """``at_work``: it is on the stage unless another is wanted, and so will be the one that runs after it."""
    running = job.state == "running"
    label = say(texts, "job.show", job=job.id, prompt=job.title[:100])
    current = ' aria-current="true"' if shown else ""
    words = say(texts, "job.state_running") if running else _made(job, texts)
    if job.twin:
        label, words = f"{label} ({say(texts, 'queue.twin', job=job.twin)})", f"{words} ⇄"
    return (
        f'<li><button type="button" class="result {job.state}" data-wish="show={"" if at_work else job.id}" '
        f'title="{label}"{current}>{_picture(job, label)}<span>{words}</span></button></li>'
    )


def _made(job: Job, texts: Texts) -> str:
    if makes_picture(job):
        return say(texts, "job.one_picture")
    return say(texts, "job.seconds", seconds=number(round(job.progress.seconds or job.request.seconds, 1)))


def _picture(job: Job, label: str) -> str:
    if job.order:
        return f'<span class="learns">{svg("learn")}</span>'
    address = picture_address(job, "start.png") if job.state == "running" else poster_address(job)
    return f'<img src="{address}" alt="{label}" loading="lazy">'
