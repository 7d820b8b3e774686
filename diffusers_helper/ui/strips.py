"""The two strips of a job: its sections by their place in time, and the steps of the running section."""

from __future__ import annotations

from html import escape
from typing import Literal

from ..events import Ended
from ..forecast import times_faster
from ..jobs.job import Job
from ..sections.plan import VideoPlan
from ..words import Texts
from .screen import makes_picture

SectionState = Literal["done", "running", "to_come"]
SIGNS = {"done": "✓", "running": "▶", "to_come": ""}
MOST_LABELS = 8
"""With more sections, only thin segments over a scale have room; their words are tooltips."""
TICKS_SECONDS = (1, 2, 5, 10, 15, 30, 60)
MOST_TICKS = 10
LAST_TICK = 0.95
"""Of the length; the words of a later one would stick out."""


def sections_in_time(job: Job, plan: VideoPlan) -> list[tuple[int, float, float]]:
    """(number in the order of making from 1, start and end in seconds), ordered by time.

    ``plan``: the request's. One that grows at the front makes the end of the video first, so its last number stands at
    the start.
    """
    fps, frames = job.progress.fps or job.request.fps, plan.frames
    places, before = [], 0
    for section in plan.sections:
        after = section.frames_after
        start, end = (frames - after, frames - before) if plan.grows_at_front else (before, after)
        places.append((section.number + 1, start / fps, end / fps))
        before = after
    return places[::-1] if plan.grows_at_front else places


def section_state(job: Job, number: int) -> SectionState:
    """What has become of a section so far."""
    if number <= job.progress.sections_done:
        return "done"
    running = job.state == "running" and number == max(job.progress.section, job.progress.sections_done + 1)
    return "running" if running and job.progress.sections else "to_come"


def sections(job: Job, texts: Texts) -> str:
    """The sections as they follow each other in the video; a picture has none to speak of."""
    if makes_picture(job):
        return ""
    plan = job.request.plan()
    places = sections_in_time(job, plan)
    labelled = len(places) <= MOST_LABELS
    cells = "".join(_section(job, place, labelled, texts) for place in places)
    order = escape(texts("job.sections_from_end" if plan.grows_at_front else "job.sections_forward"))
    title = f"<h3>{escape(texts('job.sections'))} <small>{order}</small></h3>"
    thin, scale = ("", "") if labelled else (" thin", _scale(places[-1][2], texts))
    return f'<section class="strip">{title}<ol class="sections{thin}">{cells}</ol>{scale}</section>'


def _scale(seconds: float, texts: Texts) -> str:
    """Ticks under the strip, at round times."""
    apart = next((step for step in TICKS_SECONDS if seconds / step <= MOST_TICKS), TICKS_SECONDS[-1])
    ticks = "".join(
        f'<span style="left: {100 * at / seconds:.2f}%">{escape(texts("job.seconds", seconds=at))}</span>'
        for at in range(0, int(seconds * LAST_TICK) + 1, apart)
    )
    return f'<div class="scale" aria-hidden="true">{ticks}</div>'


def _section(job: Job, place: tuple[int, float, float], labelled: bool, texts: Texts) -> str:
    number, start, end = place
    state = section_state(job, number)
    times = {"start": f"{start:.1f}", "end": f"{end:.1f}"}
    told = escape(texts("job.section_title", number=number, state=texts(f"job.section_{state}"), **times))
    label = f"<small>{escape(texts('job.section_place', **times))}</small>" if labelled else ""
    return (
        f'<li class="{state}" title="{told}"><b aria-hidden="true">{number}{SIGNS[state]}</b>'
        f'<span aria-hidden="true">{label}</span><span class="only-heard">{told}</span></li>'
    )


def steps(job: Job, texts: Texts) -> str:
    """The running section's steps: computed ones are full, reused ones hollow, those to come dots. Of a job that has
    ended how many were reused, and what that was worth."""
    progress = job.progress
    if told := reused(job.progress.totals, texts):
        return f'<p class="reused">{escape(told)}</p>'
    if job.state != "running" or not progress.steps or not progress.section:
        return ""
    kinds = ["computed" if computed else "reused" for computed in progress.computed]
    left = max(progress.steps - len(kinds), 0)
    cells = "".join(f'<i class="{kind}"></i>' for kind in [*kinds, *["to-come"] * left])
    counts = {"computed": kinds.count("computed"), "reused": kinds.count("reused"), "left": left}
    summary = escape(texts("job.steps_summary", **counts))
    legend = "".join(
        f'<span><i class="{kind}"></i>{_step_words(kind, texts)} {count}</span>'
        for kind, count in zip(("computed", "reused", "to-come"), counts.values(), strict=True)
    )
    return (
        f'<section class="strip steps-strip"><h3>{escape(texts("job.steps"))}</h3>'
        f'<div class="steps" role="img" aria-label="{summary}">{cells}</div>'
        f'<p class="legend" aria-hidden="true">{legend}</p></section>'
    )


def reused(totals: Ended, texts: Texts) -> str:
    """How many steps the step cache served, and how much faster it was so, as text; empty where it served none."""
    if not totals.steps_reused:
        return ""
    counts = {"reused": totals.steps_reused, "steps": totals.steps_computed + totals.steps_reused}
    faster = times_faster(totals)
    if faster is None:
        return texts("job.reused", **counts)
    return texts("job.reused_faster", **counts, times=f"{faster:.1f}")


def _step_words(kind: str, texts: Texts) -> str:
    return escape(texts(f"job.step_{kind.replace('-', '_')}"))
