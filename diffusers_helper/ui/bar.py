"""How far the whole job is. The script keeps bar, percent and time left going between two answers (bar.js, tick)."""

from __future__ import annotations

from html import escape
from typing import Any

from ..jobs.job import Job
from ..words import Texts

WORDS = (
    "job.left",
    "job.late",
    "job.seconds",
    "job.minutes",
    "job.hours",
    "job.percent",
    "job.title_seconds",
    "job.title_minutes",
)
"""The texts in which the script shows it."""


def bar(job: Job, texts: Texts) -> str:
    """The places that the script fills while a job runs; they stay the same, so that the bar moves smoothly."""
    if job.state != "running":
        return ""
    label = escape(texts("job.progress", job=job.id))
    return (
        f'<div class="bar" data-clock="bar" role="progressbar" aria-label="{label}" aria-valuemin="0"'
        ' aria-valuemax="100"><i></i></div><span class="percent" data-clock="percent" aria-hidden="true"></span>'
    )


def clock(job: Job, texts: Texts) -> dict[str, Any]:
    """For the script: what was told last of a job, by the server's clock."""
    times = {"told_at": job.progress.told_at, "ready_at": job.ready_at, "fraction": job.fraction}
    state = {"job": job.id, "state": job.state, "state_word": texts(f"job.state_{job.state}")}
    return {**state, **times}
