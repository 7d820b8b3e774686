"""What can be done with jobs, as buttons with words, with a drawing or with both; and what with one that has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..jobs.job import ENDED, UNFINISHED, Job
from ..jobs.twins import reuses
from ..words import Texts
from .icons import svg
from .screen import address, has_video, is_film, key_of


@dataclass(frozen=True)
class Offer:
    """One thing that can be done.

    Attributes:
        job: 0 where it is about all of them.
        words, hint, confirm: what it is called, what is said of it, what is asked first; plain text.
        value: how it is to be done.
        saves, address: of the link that saves a video, the name under which and from where.
    """

    act: str
    job: int
    words: str
    hint: str = ""
    confirm: str = ""
    saves: str = ""
    address: str = ""
    value: str = ""
    usable: bool = True


def offers(job: Job, texts: Texts) -> list[Offer]:
    """What can be done with ``job``, the likeliest first."""
    if job.order:
        return [*_uses(job, texts), *_takes_up(job, texts)]
    return [*_takes_up(job, texts), *(_with_video(job, texts) if has_video(job) else []), _offer(job, "use", texts)]


def _takes_up(job: Job, texts: Texts) -> list[Offer]:
    """How an unfinished job is taken up again; before its first section, going on is starting again."""
    progress, found = job.progress, []
    counts = {"done": progress.sections_done, "sections": progress.sections}
    if job.order:
        counts = {"done": progress.step_number, "sections": progress.steps}
    if job.can_go_on:
        hint = texts(key_of("queue.go_on_hint", job, texts), **counts) if counts["done"] else ""
        found.append(_offer(job, "go_on", texts, hint=hint))
    if job.state in UNFINISHED and not (job.can_go_on and not counts["done"]):
        sure = texts("queue.retry_confirm", job=job.id) if progress.folder or (job.order and job.can_go_on) else ""
        found.append(_offer(job, "retry", texts, confirm=sure))
    return found


def _uses(job: Job, texts: Texts) -> list[Offer]:
    """The LoRA of a training in the form of the Generate tab: the page's script adds it to those that are chosen."""
    lora = Path(job.progress.lora or "")
    if not (job.progress.lora and lora.is_file()) or job.state not in ENDED:
        return []
    hint = texts("queue.use_lora_hint", name=lora.name)
    return [Offer("use_lora", job.id, texts("queue.use_lora"), hint, value=lora.name)]


def _with_video(job: Job, texts: Texts) -> list[Offer]:
    words = texts(key_of("queue.save", job, texts))
    save = Offer("save", job.id, words, saves=Path(job.progress.video or "").name, address=address(job))
    again = [_offer(job, "again", texts)] if job.state == "done" else []
    return [save, *again, *_compared(job, texts), _offer(job, "last_frame", texts), _offer(job, "open_folder", texts)]


def _compared(job: Job, texts: Texts) -> list[Offer]:
    """Of a finished job that is compared with none."""
    return [comparing(job, texts)] if job.state == "done" and is_film(job) and not job.twin else []


def comparing(job: Job, texts: Texts) -> Offer:
    """To compare a job with its counterpart, which has a step cache where the job has none."""
    words = texts("queue.compare_exact" if reuses(job.request) else "queue.compare_cache")
    return Offer("compare", job.id, words, texts("queue.compare_hint"))


def compare(job: Job, texts: Texts) -> str:
    """The same as a button with words, beside what can be looked at; empty where there is no whole video."""
    return "".join(button(offer) for offer in _compared(job, texts)) if has_video(job) else ""


def _offer(job: Job, act: str, texts: Texts, *, hint: str = "", confirm: str = "") -> Offer:
    return Offer(act, job.id, texts(key_of(f"queue.{act}", job, texts)), hint, confirm)


def button(offer: Offer, kind: str = "") -> str:
    """With a drawing and words."""
    content = f"{svg(offer.act)}<span>{escape(offer.words)}</span>"
    return _element(offer, f"q-button {kind}".strip(), content, title=offer.hint)


def plain(offer: Offer) -> str:
    """With words."""
    return _element(offer, "q-button", escape(offer.words), title=offer.hint)


def icon(offer: Offer, kind: str = "") -> str:
    """With a drawing, and words for those who point at it or cannot see it."""
    words = f"{offer.words}: {offer.hint}" if offer.hint else offer.words
    return _element(offer, f"q-icon {kind}".strip(), svg(offer.act), title=words, aria_label=words)


def _element(offer: Offer, classes: str, content: str, **attributes: str) -> str:
    if offer.saves:
        link = f'href="{offer.address}" download="{escape(offer.saves)}"'
        return f'<a class="{classes}" {link}{_attributes(attributes)}>{content}</a>'
    told = _attributes({"data-value": offer.value, "data-confirm": offer.confirm, **attributes})
    off = "" if offer.usable else " disabled"
    act = f'data-act="{offer.act}" data-job="{offer.job}"'
    return f'<button type="button" class="{classes}" {act}{told}{off}>{content}</button>'


def _attributes(given: Mapping[str, str]) -> str:
    """Those that say something."""
    return "".join(f' {name.replace("_", "-")}="{escape(text)}"' for name, text in given.items() if text)
