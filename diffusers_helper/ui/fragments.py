"""The live parts of the page as HTML: functions of the jobs, and of which of their videos are still there.

What comes from users is escaped. Media are named by job, relative to the page: ``media/<job>/video.mp4``. Buttons say
what they do in ``data-act`` and ``data-job``, and in ``data-confirm`` what is asked first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from ..engines import files_of
from ..events import Failed
from ..jobs.job import ENDED, Job, Keep
from ..words import Texts
from . import acts, bar, compiled, fetching, fragments_queue, learning, machine, screen, shelf_list, strips
from .app_context import AppContext
from .batch import batch
from .calibration import calibration
from .comparison import Pair, caption, comparison, pair_of, twin_shot
from .fragments_queue import Wish
from .phrases import duration, say
from .recent import recent
from .screen import key_of, makes_picture

GB = 1e9
OF_JOB = (
    "bar", "job", "video", "preview", "views", "stop", "comparison", "batch", "sections", "steps", "calibration",
    "notices", "announce",
)  # fmt: skip
"""The fragments that show one job."""
TOLD_ENDS = ("done", "failed")
"""The ends that nobody has asked for."""
OF_FORM = ("generate.drop_file", "generate.one_picture", "generate.no_image", "generate.notification_denied")
OF_LORAS = ("generate.loras", "generate.lora_weight", "generate.lora_weight_at_end", "generate.lora_remove")
SCRIPTS_SAY = ("page.lost", "page.not_sent", *OF_FORM, *OF_LORAS, *bar.WORDS)
"""The texts that scripts show."""
SILENT_SECONDS, SILENT_AT_WORK_SECONDS = 30.0, 1800.0
"""A worker that shows no life for longer is reported; loading a checkpoint takes minutes."""


def render(context: AppContext, language: str, wish: Wish | None = None) -> dict[str, str]:
    """Every fragment by the id of its place, as one page wishes it."""
    texts, wish = Texts(language), wish or Wish()
    jobs = context.queue.jobs()
    job = chosen(jobs, wish.show)
    return {
        **fragments_queue.render(context, texts, wish),
        **(of_job(job, texts, pair_of(job, jobs, context.likenesses), jobs) if job else _without_job(texts)),
        "recent": recent(jobs, job, texts) if job else "",
        "others": others(jobs, context.queue.paused, texts, timed(jobs, wish.show)),
        "warnings": warnings(context, texts),
        "disk": machine_now(context, texts),
        "fetching": fetching.render(context.fetching, context.settings.paths, context.settings.network, texts),
        "shelf": shelf_list.render(context, texts, wish),
        "training": training(jobs, texts),
        "compiled": compiled.render(files_of(context.settings), texts),
    }


def state(context: AppContext, language: str, wish: Wish | None = None) -> dict[str, Any]:
    """What the page's scripts go by: which run of the program answers, which version of the shelf, whether a job runs
    and how far the one is that they count on with, which wait, the last end, and the words that they say."""
    texts, jobs = Texts(language), context.queue.jobs()
    now = timed(jobs, wish.show if wish else 0)
    ended = next((job for job in jobs if job.state in TOLD_ENDS), None)
    return {
        "run": context.run,
        "shelf": context.loras.version,
        "running": any(job.state == "running" for job in jobs[:1]),
        "queued": [job.id for job in jobs if job.state == "queued"],
        "ended": {"at": (ended and ended.ended_at) or 0, "words": _ended_words(ended, texts) if ended else ""},
        "clock": bar.clock(now, texts) if now else None,
        "words": {key: texts(key) for key in SCRIPTS_SAY},
    }


def _ended_words(job: Job, texts: Texts) -> str:
    return f"{texts('job.title', job=job.id)}: {texts(f'job.state_{job.state}')}"


def timed(jobs: Sequence[Job], wanted: int = 0) -> Job | None:
    """The job whose time the page shows: the one on the stage where it runs, else the one that would stand there."""
    shown = chosen(jobs, wanted)
    return shown if shown and shown.state == "running" else chosen(jobs)


def chosen(jobs: Sequence[Job], wanted: int = 0) -> Job | None:
    """The job on the stage: the one that is wanted, the first begun that runs, the last that ended, or the first that
    waits."""
    for job in jobs:
        if job.id == wanted:
            return job
    for states in (("running",), ENDED, ("queued",)):
        found = [job for job in jobs if job.state in states]
        if found:
            return found[0]
    return None


def of_job(job: Job, texts: Texts, pair: Pair | None = None, jobs: Sequence[Job] = ()) -> dict[str, str]:
    """All that the Generate tab shows of one job; ``pair``: with its twin, where it has one; ``jobs``: all of them."""
    if job.order:
        return {**dict.fromkeys(OF_JOB, ""), **_of_training(job, texts)}
    twin = twin_shot(pair, texts)
    return {
        "bar": bar.bar(job, texts),
        "job": headline(job, texts),
        "video": screen.video(job, texts, caption(job, texts) if twin else "") + twin,
        "preview": screen.preview(job, texts),
        "views": screen.views(job, texts, bool(twin), acts.compare(job, texts)),
        "stop": buttons(job, texts),
        "comparison": comparison(pair, texts),
        "batch": batch(job, jobs, texts),
        "sections": strips.sections(job, texts),
        "steps": strips.steps(job, texts),
        "calibration": calibration(job, texts),
        "notices": notices(job, texts),
        "announce": announcement(job, texts),
    }


def _of_training(job: Job, texts: Texts) -> dict[str, str]:
    """What there is to show of a training; its losses have the place of what a calibration has measured."""
    return {
        "bar": bar.bar(job, texts),
        "job": headline(job, texts),
        "calibration": learning.curve(job, texts),
        "stop": buttons(job, texts),
        "notices": notices(job, texts),
        "announce": announcement(job, texts),
    }


def training(jobs: Sequence[Job], texts: Texts) -> str:
    """The training that the Train tab shows: the one that runs, else the last that ended, or the first that waits."""
    job = chosen([job for job in jobs if job.order])
    if job is None:
        return f'<div class="blank"><p>{say(texts, "train.none")}</p><p>{say(texts, "train.none_hint")}</p></div>'
    told = headline(job, texts, ticks=False) + learning.bar(job, texts) + notices(job, texts)
    made = learning.curve(job, texts) + learning.samples(job, texts) + learning.files(job, texts)
    return f'<div class="stage">{told}{made}{buttons(job, texts)}</div>'


def _without_job(texts: Texts) -> dict[str, str]:
    empty = f'<div class="blank"><p>{say(texts, "job.none")}</p><p>{say(texts, "job.none_hint")}</p></div>'
    return {**dict.fromkeys(OF_JOB, ""), "job": empty}


def headline(job: Job, texts: Texts, ticks: bool = True) -> str:
    """Which job, what it is at, how long yet, and what was asked for.

    ``ticks``: the page's script keeps the time going between two answers.
    """
    title = f"<h2>{say(texts, 'job.title', job=job.id)}</h2>"
    state = f'<span class="state {job.state}">{say(texts, f"job.state_{job.state}")}</span>'
    clock = ' data-clock="left"' if ticks and job.ready_at is not None else ""
    time = f'<span class="time"{clock}>{escape(_time(job, texts))}</span>'
    prompt = f'<p class="prompt">{escape(job.title)}</p>' if job.title else ""
    plan = job.progress.plan
    memory = f' title="{escape(texts.said(plan.said, plan.memory))}"' if plan and plan.memory else ""
    doing = f'<p class="doing"{memory}>{_doing(job, texts)}</p>'
    return f'<header class="headline">{title}{state}{time}</header>{doing}{prompt}'


def _time(job: Job, texts: Texts) -> str:
    if job.state == "running":
        left = job.progress.seconds_left
        return texts("job.measuring") if left is None else texts("job.left", time=duration(left, texts))
    if job.state in ENDED and job.progress.totals.seconds_total:
        return texts("job.took", time=duration(job.progress.totals.seconds_total, texts))
    return ""


def _doing(job: Job, texts: Texts) -> str:
    progress = job.progress
    if job.order:
        return learning.doing(job, texts)
    if job.state == "running":
        place = {
            "section": progress.section,
            "sections": progress.sections,
            "step": progress.step_number,
            "steps": progress.steps,
            "percent": int(100 * progress.merging.share) if progress.merging else 0,
        }
        return say(texts, key_of(f"job.phase_{progress.phase}", job, texts), **place)
    if not progress.width:
        return ""
    size = {"width": progress.width, "height": progress.height}
    counts = {} if makes_picture(job) else {"frames": progress.frames, "planned": progress.frames_planned}
    return say(texts, key_of("job.facts", job, texts), seed=progress.seed, **size, **counts)


def announcement(job: Job, texts: Texts) -> str:
    """One sentence for screen readers; it changes with the state and the sections, not with every step."""
    progress = job.progress
    state = texts(f"job.state_{job.state}")
    done = {"sections_done": progress.sections_done, "sections": progress.sections}
    return say(texts, key_of("job.announce", job, texts), job=job.id, state=state, **done)


def notices(job: Job, texts: Texts) -> str:
    """What went wrong, and what is worth knowing."""
    failed = job.progress.ended if job.state in ("failed", "interrupted") else None
    wrong = ""
    if isinstance(failed, Failed):
        wrong = f'<p class="error" role="alert"><strong>{say(texts, "job.error")}</strong> '
        wrong += f"{escape(texts.said(failed.said, failed.error))}</p>"
    is_gone = job.state in ENDED and job.progress.video and not screen.has_video(job)
    gone = [texts(key_of("queue.gone", job, texts))] if is_gone else []
    said = [texts.said(notice.said, notice.message) for notice in job.progress.notices]
    return wrong + "".join(f'<p class="notice">{escape(notice)}</p>' for notice in (*said, *gone))


def buttons(job: Job, texts: Texts) -> str:
    """Of a running job the three stops, each with what it keeps; of one that ended what can be done with it."""
    if job.state == "running":
        asked = (
            f'<p class="stopping" role="status">{say(texts, key_of(f"job.stopping_{job.stop}", job, texts))}</p>'
            if job.stop
            else ""
        )
        in_one = job.order or makes_picture(job)
        keeps: tuple[Keep, ...] = ("now", "nothing") if in_one else ("now", "section", "nothing")
        stops = "".join(_stop(job, keep, texts) for keep in keeps)
        return f'<div class="acts stops">{stops}</div>{asked}'
    offered = [offer for offer in acts.offers(job, texts) if offer.act != "compare"] if job.state in ENDED else []
    kinds = ("q-primary", *[""] * len(offered))
    drawn = "".join(acts.button(offer, kind) for offer, kind in zip(offered, kinds, strict=False))
    return f'<div class="offers">{drawn}</div>' if drawn else ""


def _stop(job: Job, keep: Keep, texts: Texts) -> str:
    label, confirm = texts(f"job.stop_{keep}"), ""
    match keep:
        case "now" if job.order:
            hint = texts("job.stop_now_keeps_training")
        case "now" if not job.progress.sections_done:
            hint = texts("job.stop_now_keeps_none")
        case "nothing":
            hint, confirm = texts("job.stop_nothing_keeps"), texts("job.stop_nothing_confirm", job=job.id)
        case _:
            count = job.progress.sections_done + (keep == "section")
            hint = texts(f"job.stop_{keep}_keeps", count=count)
    ask = f' data-confirm="{escape(confirm)}"' if confirm else ""
    off = ' aria-pressed="true"' if job.stop == keep else ""
    return (
        f'<button type="button" class="act {keep}" data-act="stop" data-value="{keep}" data-job="{job.id}"'
        f"{ask}{off}><span>{escape(label)}</span><small>{escape(hint)}</small></button>"
    )


def others(jobs: Sequence[Job], paused: bool, texts: Texts, now: Job | None) -> str:
    """What runs, for those who do not see the stage beside the form, and how many wait.

    ``now``: the job whose time is shown.
    """
    running = "".join(_running_chip(job, job == now, texts) for job in jobs if job.state == "running")
    waiting = sum(job.state == "queued" for job in jobs)
    said = [say(texts, "job.waiting", count=waiting)] if waiting else []
    said += [say(texts, "job.paused")] if paused else []
    return running + "".join(f'<span class="chip">{words}</span>' for words in said)


def _running_chip(job: Job, is_timed: bool, texts: Texts) -> str:
    """A way to the stage; where several run, it shows this one there."""
    title = say(texts, "job.title", job=job.id)
    time = '<span data-clock="percent"></span> ' if is_timed else ""
    shows = f' data-wish="show={job.id}"' if job.executor else ""
    return f'<a class="chip running" href="#stage"{shows}>{title} {time}↓</a>'


def warnings(context: AppContext, texts: Texts) -> str:
    """What the whole page must know: who can reach it, and what cannot be used or kept."""
    told = [say(texts, key) for key in context.warnings]
    if context.checkpoint is None:
        problem = texts.said(context.checkpoint_problem)
        told.append(f"{say(texts, 'generate.no_checkpoint')}<br>{_lines(problem)}")
    told += [_lines(texts.said(notice)) for notice in context.queue.notices]
    silent = context.worker_heartbeat()
    if math.isinf(silent):
        told.append(say(texts, "job.worker_ended"))
    elif silent > (SILENT_AT_WORK_SECONDS if _at_work(context) else SILENT_SECONDS):
        told.append(say(texts, "job.worker_silent", time=duration(silent // 60 * 60, texts)))
    return "".join(f'<p class="warning">{words}</p>' for words in told)


def _at_work(context: AppContext) -> bool:
    return any(job.state == "running" for job in context.queue.jobs()[:1])


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def machine_now(context: AppContext, texts: Texts) -> str:
    """Free disk, RAM and GPU memory."""
    rows = [_space("disk", machine.disk(context.settings.paths.output_dir), texts), _space("ram", machine.ram(), texts)]
    vram = machine.vram()
    if vram:
        rows.append(_space("vram", vram, texts))
    else:
        reason = "job.vram_none" if machine.torch_is_loaded() else "job.vram_later"
        rows.append(f"<div><dt>{say(texts, 'job.vram')}</dt><dd>{say(texts, reason)}</dd></div>")
    return f'<dl class="machine">{"".join(rows)}</dl>'


def _space(name: str, space: machine.Space, texts: Texts) -> str:
    used = 100 * (1 - space.free / space.total)
    words = say(texts, "job.free_of", free=f"{space.free / GB:.1f}", total=f"{space.total / GB:.1f}")
    meter = f'<meter min="0" max="100" high="90" value="{used:.0f}">{words}</meter>'
    return f"<div><dt>{say(texts, f'job.{name}')}</dt><dd>{words}{meter}</dd></div>"
