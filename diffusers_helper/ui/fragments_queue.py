"""Queue and history as HTML: pure functions of the jobs. Everything that users wrote is escaped.

Pictures and videos are named by job, relative to the page. Buttons carry what they do in ``data-act`` and ``data-job``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path

from ..events import Failed
from ..jobs.job import ENDED, Job, UnreadableJob
from ..request import DRAW_A_SEED
from ..words import Message, Texts
from . import acts, learning
from .acts import Offer
from .app_context import AppContext
from .icons import svg
from .loras import in_words
from .phrases import duration, number, say
from .screen import has_video, is_film, key_of, moving_address, picture_address, poster_address

LONGEST_NUMBER, LONGEST_WORDS = 10, 200
MOST_UNDONE = 3
STEP = 24
MOST = 1200
"""So many jobs are shown at first, and at most, in each of the two lists."""


@dataclass(frozen=True)
class Wish:
    """What one page wants to see: so many ``waiting`` jobs, ``count`` of the ended ones that match, one on the stage.

    Attributes:
        show: the job on the stage; 0 for the one that is at work.
        shelf: so many of the LoRAs on the shelf that match ``lora``; 0 where the page shows no list of them.
        model: the checkpoint that the page shows.
    """

    find: str = ""
    state: str = ""
    count: int = STEP
    waiting: int = STEP
    show: int = 0
    shelf: int = 0
    lora: str = ""
    model: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wish:
        """From the parameters of a request, whatever they hold."""
        state = query.get("state", "")
        count, waiting = (_count(query.get(name, "")) for name in ("count", "waiting"))
        show, shelf = _number(query.get("show", "")), query.get("shelf", "")
        find, lora, model = (query.get(name, "")[:LONGEST_WORDS] for name in ("find", "lora", "model"))
        shown = state if state in ENDED else ""
        return cls(find, shown, count, waiting, show, _count(shelf) if shelf else 0, lora, model)

    def takes(self, job: Job) -> bool:
        """Whether the job is one that is looked for."""
        words = self.find.casefold().split()
        told = f"{job.title} {_seed(job)} #{job.id}".casefold()
        return (not self.state or job.state == self.state) and all(word in told for word in words)


def render(context: AppContext, texts: Texts, wish: Wish | None = None) -> dict[str, str]:
    """The fragments ``queue``, ``history`` and ``undo``."""
    now, wish = context.queue, wish or Wish()
    jobs = now.jobs()
    return {
        "queue": queue(jobs, now.paused, now.notices, texts, wish, now.is_halted) + broken(now.unreadable, texts),
        "history": history(jobs, texts, wish),
        "undo": undo(now.trashed, texts),
    }


def queue(
    jobs: Sequence[Job], paused: bool, notices: Sequence[Message], texts: Texts, wish: Wish, halted: bool = False
) -> str:
    """What runs and what waits, with what can be done about it. ``halted``: an executor begins no job any more."""
    running = [job for job in jobs if job.state == "running"]
    waiting = [job for job in jobs if job.state == "queued"]
    rows = [_running_row(job, texts) for job in running]
    rows += [_waiting_row(job, place, len(waiting), texts) for place, job in enumerate(waiting[: wish.waiting], 1)]
    told = "".join(f'<p class="q-notice" role="alert">{escape(texts.said(notice))}</p>' for notice in notices)
    told += f'<p class="q-notice" role="status">{say(texts, "queue.paused")}</p>' if paused else ""
    listed = f'<ol class="q-list" data-parts="queue">{"".join(rows)}</ol>' if rows else _empty(texts, "queue.empty")
    more = more_of("waiting", wish.waiting, len(waiting), texts) if len(waiting) > wish.waiting else ""
    pauses = {"pause": not paused, "unpause": paused or halted}
    return _queue_head(jobs, len(waiting), pauses, texts) + told + listed + more


def broken(unreadable: Sequence[UnreadableJob], texts: Texts) -> str:
    """What stands in the queue's file and is no job: why, and the way to delete it."""
    rows = (
        f'<li class="q-row q-unreadable"><div class="q-words"><p class="q-prompt">{_unreadable(job, texts)}</p>'
        f'<p class="q-error">{escape(texts.said(job.reason))}</p></div>'
        f'<div class="q-acts">{acts.icon(Offer("trash", job.id, texts("queue.delete")), "q-danger")}</div></li>'
        for job in unreadable
    )
    return f'<ul class="q-list" role="alert">{"".join(rows)}</ul>' if unreadable else ""


def _unreadable(job: UnreadableJob, texts: Texts) -> str:
    return say(texts, "queue.unreadable", job=job.id)


def history(jobs: Sequence[Job], texts: Texts, wish: Wish) -> str:
    """The newest of the ended jobs that ``wish`` takes, as a gallery."""
    ended = [job for job in jobs if job.state in ENDED]
    found = [job for job in ended if wish.takes(job)]
    if not found:
        return _empty(texts, "queue.history_none" if ended else "queue.history_empty")
    cards = "".join(_card(job, texts) for job in found[: wish.count])
    return f'<ul class="q-gallery" data-parts="history">{cards}</ul>{more_of("count", wish.count, len(found), texts)}'


def _count(text: str) -> int:
    return max(STEP, min(_number(text), MOST))


def _number(text: str) -> int:
    """A small number that a request names; 0 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < LONGEST_NUMBER else 0


def more_of(wish: str, shown: int, count: int, texts: Texts) -> str:
    """How many of a list are shown, and a button for more of them."""
    counts = say(texts, "queue.history_counts", shown=min(shown, count), count=count)
    words = say(texts, "queue.more", count=min(count - shown, STEP))
    button = f'<button type="button" class="q-button" data-wish="{wish}={shown + STEP}">{words}</button>'
    return f'<p class="q-more"><span>{counts}</span>{button if shown < min(count, MOST) else ""}</p>'


def _queue_head(jobs: Sequence[Job], waiting: int, pauses: Mapping[str, bool], texts: Texts) -> str:
    failed = sum(job.state == "failed" for job in jobs)
    broken = sum(job.state == "interrupted" and job.can_go_on for job in jobs)
    offered = {**pauses, "go_on_all": broken, "retry_failed": failed}
    buttons = "".join(
        acts.plain(Offer(act, 0, texts(f"queue.{act}", count=count))) for act, count in offered.items() if count
    )
    return (
        f'<div class="q-head"><h2>{say(texts, "queue.queue")}</h2>'
        f'<span class="q-dim">{say(texts, "queue.counts", count=waiting)}</span>'
        f'<span class="q-buttons">{buttons}</span></div>'
    )


def _running_row(job: Job, texts: Texts) -> str:
    progress = job.progress
    done, whole = progress.sections_done, progress.sections
    if job.order:
        done, whole = progress.step_number, progress.steps
    bar = f'<progress max="{max(whole, 1)}" value="{done}"></progress>'
    told = say(texts, key_of("queue.sections", job, texts), done=done, sections=whole) if whole else ""
    if job.stop:
        buttons = f'<span class="q-dim">{say(texts, key_of(f"job.stopping_{job.stop}", job, texts))}</span>'
    else:
        keeps = ("now", "nothing") if job.order else ("now", "section", "nothing")
        buttons = "".join(_stop(job, keep, texts) for keep in keeps)
    where = f"<span>{say(texts, 'queue.executor', executor=job.executor)}</span>" if job.executor else ""
    return _row(job, f"{bar}<span>{told}</span>{where}{_facts(job, texts)}", buttons, texts)


def _stop(job: Job, keep: str, texts: Texts) -> str:
    sure = texts("job.stop_nothing_confirm", job=job.id) if keep == "nothing" else ""
    return acts.plain(Offer("stop", job.id, texts(f"job.stop_{keep}"), confirm=sure, value=keep))


def _waiting_row(job: Job, place: int, waiting: int, texts: Texts) -> str:
    unfinished = job.progress.folder is not None or job.progress.learning is not None
    usable = {
        "up": place > 1,
        "down": place < waiting,
        "next": place > 1,
        **({} if job.order else {"edit": not unfinished, "duplicate": True}),
        "cancel" if unfinished else "remove": True,
    }
    sure = {"remove": texts("queue.remove_confirm", job=job.id)}
    names = {act: texts(f"queue.act_{act}", job=job.id) for act in usable}
    buttons = "".join(
        acts.icon(Offer(act, job.id, names[act], confirm=sure.get(act, ""), usable=can)) for act, can in usable.items()
    )
    done = job.progress.step_number if job.order else job.progress.sections_done
    resumes = say(texts, key_of("queue.resumes", job, texts), done=done) if unfinished else ""
    places = f'<span class="q-place">{say(texts, "queue.place", place=place)}</span>'
    return _row(job, f"{places}<span>{resumes}</span>{_facts(job, texts)}", buttons, texts)


def _row(job: Job, facts: str, buttons: str, texts: Texts) -> str:
    facts = f"{_state(job, texts)}{facts}{_twin(job, texts)}"
    return (
        f'<li class="q-row q-{job.state}">{_thumb(job)}'
        f'<div class="q-words"><p class="q-prompt">{_prompt(job, texts)}</p>'
        f'<p class="q-facts">{facts}</p></div><div class="q-acts">{buttons}</div></li>'
    )


def undo(trashed: Sequence[Job | UnreadableJob], texts: Texts) -> str:
    """What was deleted lately, each with the way back."""
    rows = (
        f'<li class="q-undo"><span>{say(texts, "queue.trashed", job=job.id)} '
        f"{_prompt(job, texts) if isinstance(job, Job) else _unreadable(job, texts)}</span>"
        f"{acts.button(Offer('undo', job.id, texts('queue.undo')))}</li>"
        for job in trashed[:MOST_UNDONE]
    )
    return f'<ul class="q-list" role="status">{"".join(rows)}</ul>' if trashed else ""


def _card(job: Job, texts: Texts) -> str:
    told = job.progress.ended
    error = f'<p class="q-error">{escape(texts.said(told.said, told.error))}</p>' if isinstance(told, Failed) else ""
    ended = datetime.fromtimestamp(job.ended_at or job.created_at)
    when = f'<time datetime="{ended:%Y-%m-%dT%H:%M}">{ended:%Y-%m-%d %H:%M}</time>'
    return (
        f'<li class="q-card">{_media(job, texts)}<p class="q-prompt">{_prompt(job, texts)}</p>'
        f'<p class="q-facts">{_state(job, texts)}<span>#{job.id}</span>{when}{_twin(job, texts)}</p>{error}'
        f'<div class="q-acts">{_card_acts(job, texts)}</div>{_files(job, texts)}</li>'
    )


def _media(job: Job, texts: Texts) -> str:
    """A frame of the video, which plays while it is pointed at; or the start picture with the reason why it is all."""
    if job.order:
        return f'<div class="q-media">{learning.lines(job)}<span>{learning.doing(job, texts)}</span></div>'
    if not has_video(job):
        why = say(texts, f"queue.{_without_video(job)}")
        return f'<div class="q-media q-none">{_thumb(job, "")}<span>{why}</span></div>'
    label = say(texts, "queue.video_of", job=job.id, prompt=job.request.prompt[:100])
    seconds = say(
        texts, "queue.length", seconds=number(round(job.progress.frames / (job.progress.fps or job.request.fps), 1))
    )
    return (
        f'<button type="button" class="q-media" data-act="show" data-job="{job.id}" data-wish="show={job.id}"'
        f"{_plays(job)}>"
        f'<img src="{poster_address(job)}" alt="{label}" loading="lazy"><span>{seconds}</span></button>'
    )


def _plays(job: Job) -> str:
    """What the page's script shows while somebody points at it."""
    moving = moving_address(job)
    return f' data-{"film" if is_film(job) else "moving"}="{moving}"' if moving else ""


def _without_video(job: Job) -> str:
    """The key of why an ended job shows no video."""
    progress = job.progress
    if progress.video:
        return "gone"
    if job.state == "cancelled" and not progress.folder:
        return "discarded" if progress.discarded else "not_begun"
    return "no_video"


def _card_acts(job: Job, texts: Texts) -> str:
    offered = acts.offers(job, texts)
    drawn = "".join(acts.icon(offer) for offer in offered if offer.act != "open_folder")
    return drawn + acts.icon(Offer("trash", job.id, texts("queue.delete")), "q-danger")


def _files(job: Job, texts: Texts) -> str:
    """Where the files lie, and the way to forget the job without them."""
    made = job.progress.video or job.progress.lora
    place = Path(made).parent if made else job.progress.folder
    path = escape(str(place)) if place else ""
    what = texts("queue.forget_deletes" if job.progress.folder else key_of("queue.forget_keeps", job, texts))
    sure = texts("queue.forget_confirm", job=job.id, what=what)
    copy = (
        f'<code>{path}</code><button type="button" class="q-button" data-copy="{path}" '
        f'data-copied="{say(texts, "queue.copied")}">{say(texts, "queue.copy")}</button>'
    )
    forget = acts.plain(Offer("remove", job.id, texts("queue.forget"), what, sure))
    facts = f'<p class="q-facts">{_facts(job, texts)}</p>'
    opens = [offer for offer in acts.offers(job, texts) if offer.act == "open_folder"]
    log = f'<a class="q-button" href="media/{job.id}/log.txt" target="_blank">{say(texts, "queue.log")}</a>'
    return (
        f'<details class="q-files"><summary>{say(texts, "queue.files")}</summary>'
        f"<div>{facts}{copy if path else ''}{''.join(map(acts.button, opens))}{forget}{log}</div></details>"
    )


def _facts(job: Job, texts: Texts) -> str:
    facts = _training_facts(job, texts) if job.order else _video_facts(job, texts)
    if job.state in ENDED and job.progress.totals.seconds_total:
        facts.append(say(texts, "job.took", time=duration(job.progress.totals.seconds_total, texts)))
    return "".join(f"<span>{fact}</span>" for fact in (f"#{job.id}", *facts))


def _training_facts(job: Job, texts: Texts) -> list[str]:
    return [say(texts, "queue.training"), say(texts, "queue.checkpoint", name=job.checkpoint_name)]


def _video_facts(job: Job, texts: Texts) -> list[str]:
    seconds = job.progress.seconds or _planned_seconds(job)
    facts = [
        say(texts, "queue.length", seconds=number(round(seconds, 1))),
        job.request.kind.name,
        say(texts, "queue.seed_to_draw") if _seed(job) == DRAW_A_SEED else say(texts, "queue.seed", seed=_seed(job)),
    ]
    if job.request.loras:
        facts.append(say(texts, "queue.loras", loras=in_words(lora.model_dump() for lora in job.request.loras)))
    return facts


def _twin(job: Job, texts: Texts) -> str:
    """With which job it is compared."""
    return f"<span>{say(texts, 'queue.twin', job=job.twin)}</span>" if job.twin else ""


def _planned_seconds(job: Job) -> float:
    """What the length that was asked for becomes in whole sections."""
    request = job.request
    return request.plan().frames / request.fps


def _seed(job: Job) -> int:
    """The seed that was drawn, once it is."""
    if job.order:
        return job.order.seed
    return job.request.seed if job.progress.seed is None else job.progress.seed


def _state(job: Job, texts: Texts) -> str:
    return f'<span class="q-state {job.state}">{say(texts, f"job.state_{job.state}")}</span>'


def _prompt(job: Job, texts: Texts) -> str:
    prompt = job.title.strip()
    if not prompt:
        return f'<em class="q-dim">{say(texts, "queue.no_prompt")}</em>'
    return f'<bdi title="{escape(prompt[:1000])}">{escape(prompt[:300])}{"…" if len(prompt) > 300 else ""}</bdi>'


def _thumb(job: Job, kind: str = "q-thumb") -> str:
    """The start picture; of a training a drawing."""
    if job.order:
        return f'<span class="{kind} learns">{svg("learn")}</span>'
    return f'<img class="{kind}" src="{picture_address(job, "thumb.png")}" alt="" loading="lazy">'


def _empty(texts: Texts, key: str) -> str:
    return f'<p class="q-empty">{say(texts, key)}</p>'
