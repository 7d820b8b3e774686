"""What a calibration has measured: MagCache's ratios as a plot, and the ways to use them. A function of the job."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TypeAlias

from ..caches.magcache import in_words
from ..events import Calibrated
from ..jobs.job import Job
from ..words import Texts
from . import acts
from .acts import Offer
from .phrases import say

WHOLE = 100.0
"""Width and height of the plot; the page stretches it, and its lines keep their strength."""
SAME = 1.0
"""The ratio of a step whose residual is as long as that of the step before."""
Range: TypeAlias = tuple[float, float]


def calibration(job: Job, texts: Texts) -> str:
    """The plot, for which checkpoint and how many steps it is, the list to be copied, and the way to use it."""
    told = job.progress.calibrated
    if told is None or not told.mean:
        return ""
    known = {"steps": len(told.mean), "sections": len(told.sections), "checkpoint": told.checkpoint}
    title = f"<h3>{say(texts, 'job.ratios')} <small>{say(texts, 'job.ratios_of', **known)}</small></h3>"
    kept = f"<p>{say(texts, 'job.ratios_kept', **known)}</p>"
    return f'<section class="strip calibration">{title}{_plot(told, texts)}{kept}{_acts(job, told, texts)}</section>'


def _acts(job: Job, told: Calibrated, texts: Texts) -> str:
    words = in_words(told.mean)
    use = acts.button(Offer("use_ratios", job.id, texts("job.ratios_use"), texts("job.ratios_use_hint")), "q-primary")
    copy = (
        f'<code tabindex="0" aria-label="{say(texts, "job.ratios_mean")}">{words}</code><button type="button" '
        f'class="q-button" data-copy="{words}" data-copied="{say(texts, "queue.copied")}">'
        f"{say(texts, 'job.ratios_copy')}</button>"
    )
    return f'<div class="offers">{use}{copy}</div>'


def _plot(told: Calibrated, texts: Texts) -> str:
    """A faint line for each section, a strong one for the mean, and a dotted one where nothing changes."""
    seen = _range([SAME, *told.mean, *(ratio for ratios in told.sections for ratio in ratios)])
    lines = "".join(_line(ratios, seen, "of-section") for ratios in told.sections)
    same = _line([SAME] * len(told.mean), seen, "same")
    drawn = f"{same}{lines}{_line(told.mean, seen, 'mean')}"
    label = say(texts, "job.ratios_told", **_told(told))
    svg = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{label}">{drawn}</svg>'
    kinds = {"mean": "mean", "of-section": "of_section", "same": "same"}
    legend = "".join(
        f'<span><i class="{kind}"></i>{say(texts, f"job.ratios_{words}")}</span>' for kind, words in kinds.items()
    )
    return f'<div class="plot">{_scales(seen, len(told.mean), texts)}{svg}</div><p class="legend">{legend}</p>'


def _told(told: Calibrated) -> dict[str, str | int]:
    """The plot in a few numbers."""
    low, high = min(told.mean), max(told.mean)
    steps = {"low_step": told.mean.index(low) + 1, "high_step": told.mean.index(high) + 1, "steps": len(told.mean)}
    return {**steps, "sections": len(told.sections), "low": f"{low:.3f}", "high": f"{high:.3f}"}


def _scales(seen: Range, steps: int, texts: Texts) -> str:
    """The ends of both axes; the drawing's own words tell more."""
    low, high = seen
    ends = f"<span>{high:.2f}</span><span>{low:.2f}</span>"
    along = f"<span>{say(texts, 'job.ratios_step', step=1)}</span><span>{escape(str(steps))}</span>"
    return f'<div class="up" aria-hidden="true">{ends}</div><div class="along" aria-hidden="true">{along}</div>'


def _range(ratios: Sequence[float]) -> Range:
    """What the plot shows from top to bottom: all of them, and never a line alone."""
    low, high = min(ratios), max(ratios)
    return (low, high) if high - low > 0.01 else (low - 0.01, high + 0.01)


def _line(ratios: Sequence[float], seen: Range, kind: str) -> str:
    low, high = seen
    apart = WHOLE / max(len(ratios) - 1, 1)
    points = (f"{apart * step:.2f},{WHOLE * (high - ratio) / (high - low):.2f}" for step, ratio in enumerate(ratios))
    return f'<polyline class="{kind}" points="{" ".join(points)}"/>'
