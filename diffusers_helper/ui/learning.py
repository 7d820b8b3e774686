"""A training as HTML: what it is at, its losses, its files. Functions of the job, and of its file being there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..jobs.job import Job
from ..jobs.job_progress import JobProgress
from ..request.output import output_by_suffix
from ..words import Texts
from .phrases import say

WHOLE = 100.0
"""Width and height of the plot; the page stretches it, and its lines keep their strength."""
SHOWN_SAMPLES = 8
OUTLIERS = 0.02
"""Of the losses, the share of the largest that may stick out of the plot: one alone would press all others flat."""


def doing(job: Job, texts: Texts) -> str:
    """What a running training is at; of one that is not how far it came."""
    progress = job.progress
    if job.state == "running":
        return say(texts, f"job.phase_{progress.phase}_training", **_told(progress))
    return say(texts, "job.facts_training", **_told(progress)) if progress.learning else ""


def _told(progress: JobProgress) -> dict[str, Any]:
    """The values of all its texts; more than any of them has places for."""
    data, latest = progress.encoded, progress.learning
    smooth = f"{latest.smooth:.4g}" if latest else ""
    files = {"done": data.done, "files": data.files} if data else {}
    return {**files, "step": progress.step_number, "steps": progress.steps, "smooth": smooth}


def bar(job: Job, texts: Texts) -> str:
    """How far it is."""
    if job.state != "running":
        return ""
    label = say(texts, "job.progress", job=job.id)
    at = f'max="{max(job.progress.steps, 1)}" value="{job.progress.step_number}"'
    return f'<progress class="learnt" {at} aria-label="{label}"></progress>'


def files(job: Job, texts: Texts) -> str:
    """The newest file, while it is there."""
    lora = Path(job.progress.lora or "")
    if not (job.progress.lora and lora.is_file()):
        return ""
    return f'<p class="q-dim">{say(texts, "job.lora_saved", step=job.progress.lora_step, name=lora.name)}</p>'


def samples(job: Job, texts: Texts) -> str:
    """What was made to look at, the newest first, each with its step."""
    made = [(step, Path(path)) for step, path in job.progress.samples[::-1] if Path(path).is_file()]
    shown = "".join(_sample(job, step, path, texts) for step, path in made[:SHOWN_SAMPLES])
    title = f"<h3>{say(texts, 'job.samples')}</h3>"
    return f'<section class="strip">{title}<ul class="t-samples">{shown}</ul></section>' if shown else ""


def _sample(job: Job, step: int, path: Path, texts: Texts) -> str:
    address, words = f"media/{job.id}/{quote(path.name)}", say(texts, "job.sample_step", step=step)
    made = output_by_suffix(path.suffix)
    is_film = made is not None and made.shown == "film"
    how = "autoplay muted loop playsinline controls"
    shown = (
        f'<video src="{address}" aria-label="{words}" {how}></video>' if is_film else f'<img src="{address}" alt="">'
    )
    return f"<li>{shown}<span>{words}</span></li>"


def curve(job: Job, texts: Texts) -> str:
    """The losses as a plot with its scales and what the lines are; empty before there are two."""
    drawn = lines(job)
    if not drawn:
        return ""
    points = job.progress.curve
    low, high = _range(_all_losses(job.progress))
    up = f'<div class="up" aria-hidden="true"><span>{high:.3g}</span><span>{low:.3g}</span></div>'
    along = f'<div class="along" aria-hidden="true"><span>{points[0][0]}</span><span>{points[-1][0]}</span></div>'
    told = {"steps": points[-1][0], "first": f"{points[0][2]:.3g}", "last": f"{points[-1][2]:.3g}"}
    label = say(texts, "job.loss_told", **told)
    kinds = {"mean": "smooth", "of-section": "each", **({"same": "held_out"} if job.progress.held_out else {})}
    legend = "".join(
        f'<span><i class="{kind}"></i>{say(texts, f"job.loss_{words}")}</span>' for kind, words in kinds.items()
    )
    title = f"<h3>{say(texts, 'job.loss')} <small>{say(texts, 'job.loss_of')}</small></h3>"
    plot = f'<div class="plot" role="img" aria-label="{label}">{up}{along}{drawn}</div>'
    return f'<section class="strip calibration">{title}{plot}<p class="legend">{legend}</p></section>'


def lines(job: Job) -> str:
    """The drawing alone: a faint line of all losses that are kept, a strong one of their mean, a dotted one of what is
    held out."""
    points = job.progress.curve
    if len(points) < 2:
        return ""
    low_high, ends = _range(_all_losses(job.progress)), (points[0][0], points[-1][0])
    drawn = _line([(step, loss) for step, loss, _ in points], ends, low_high, "of-section")
    drawn += _line([(step, smooth) for step, _, smooth in points], ends, low_high, "mean")
    if held_out := job.progress.held_out:
        drawn += _line(held_out, ends, low_high, "same")
    return f'<svg class="losses" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'


def _range(losses: Sequence[float]) -> tuple[float, float]:
    """What the plot shows from bottom to top: all but the largest, and never a line alone."""
    ordered = sorted(losses)
    low, high = ordered[0], ordered[int((1 - OUTLIERS) * (len(ordered) - 1))]
    return (low, high) if high > low else (low - abs(low) / 2 - 1e-9, low + abs(low) / 2 + 1e-9)


def _line(points: Iterable[tuple[int, float]], ends: tuple[int, int], seen: tuple[float, float], kind: str) -> str:
    (low, high), (first, last) = seen, ends
    drawn = (
        f"{max(WHOLE * (step - first) / max(last - first, 1), 0.0):.2f},"
        f"{max(WHOLE * (high - loss) / (high - low), 0.0):.2f}"
        for step, loss in points
    )
    return f'<polyline class="{kind}" points="{" ".join(drawn)}"/>'


def _all_losses(progress: JobProgress) -> list[float]:
    return [loss for _, *losses in (*progress.curve, *progress.held_out) for loss in losses]
