"""The list of the files on the shelf as HTML. Names, and what files say of themselves, are strangers' and escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from ..lora.label import Label
from ..lora.watch import OnShelf
from ..words import Message, Texts
from .app_context import AppContext
from .fragments_queue import Wish, more_of
from .lora_section import partly, unfit
from .phrases import say, short

KB, MB, GB = 1e3, 1e6, 1e9


def render(context: AppContext, texts: Texts, wish: Wish) -> str:
    """The files that a page looks for, for the checkpoint that it shows; nothing where it shows no list."""
    if not wish.shelf:
        return ""
    watch, checkpoint = context.loras, context.shown(wish.model)
    files = watch.files()
    if not files:
        key = "shelf.empty" if watch.has_looked else "shelf.first_look"
        return f'<p class="q-empty">{say(texts, key, folder=watch.shelf.place)}</p>'
    found = [each for each in files if _takes(wish.lora, each)]
    if not found:
        return f'<p class="q-empty">{say(texts, "shelf.none_found")}</p>'
    name = checkpoint.name if checkpoint else ""
    rows = "".join(_row(each, watch.content_of(each), name, texts) for each in found[: wish.shelf])
    return f'<ul class="l-list" data-parts="shelf">{rows}</ul>{more_of("shelf", wish.shelf, len(found), texts)}'


def _takes(find: str, file: OnShelf) -> bool:
    """Whether every word that is looked for stands in the name, or in what the file says of itself."""
    said = file.label.said if file.label else None
    told = [file.name, *((said.title, said.notes, *said.trigger_words) if said else ())]
    text = " ".join(told).casefold()
    return all(word in text for word in find.casefold().split())


def _row(file: OnShelf, content: str, checkpoint: str, texts: Texts) -> str:
    """One file: what it is, and a box to tick where it can be used; its ``content`` as far as it is known."""
    wrong = file.problem or (unfit(file.label, checkpoint) if file.label else None)
    marks = f'data-lora="{escape(file.name)}" data-content="{content}"'
    box = f'<input type="checkbox" {marks}{" disabled" if wrong else ""}>'
    about = "".join(_about(file.label, checkpoint, texts)) if file.label else ""
    reading = "" if file.label or file.problem else f'<span class="l-line">{say(texts, "shelf.reading")}</span>'
    reason = _refusal(file, wrong, checkpoint, texts) if wrong else ""
    facts = f'<span class="q-facts">{"".join(_facts(file, texts))}</span>'
    words = f'<span class="l-words"><bdi class="l-name">{escape(file.name)}</bdi>{facts}{about}{reading}{reason}</span>'
    return f'<li class="l-row{" l-off" if wrong else ""}"><label>{box}{_picture(file)}{words}</label></li>'


def _refusal(file: OnShelf, wrong: Message, checkpoint: str, texts: Texts) -> str:
    """In short; where it is about one checkpoint, the whole of it for those who point at it."""
    if file.problem:
        words = say(texts, "shelf.unusable", reason=texts.said(wrong))
    else:
        words = say(texts, "shelf.unfit", checkpoint=checkpoint)
    return f'<span class="q-error" title="{escape(texts.said(wrong))}">{words}</span>'


def _picture(file: OnShelf) -> str:
    if not file.picture:
        return '<span class="l-thumb"></span>'
    return f'<img class="l-thumb" loading="lazy" src="media/lora/{file.picture_key}.jpg" alt="">'


def _facts(file: OnShelf, texts: Texts) -> Iterator[str]:
    """Size, form, rank and model."""
    yield f"<span>{size(file.stamp.size)}</span>"
    if label := file.label:
        yield f"<span>{escape(', '.join(label.dialects))}</span>"
        yield f"<span>{say(texts, 'shelf.rank', ranks=_range(label.ranks))}</span>" if label.ranks else ""
        yield f"<span>{say(texts, 'shelf.made_for', model=short(label.base))}</span>" if label.base else ""


def _range(ranks: Sequence[int]) -> str:
    return f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}–{ranks[-1]}"


def size(count: int) -> str:
    """Bytes as people count them."""
    unit, name = next(((unit, name) for unit, name in ((GB, "GB"), (MB, "MB")) if count >= unit), (KB, "kB"))
    return f"{count / unit:.3g} {name}"


def _about(label: Label, checkpoint: str, texts: Texts) -> Iterator[str]:
    """What the file says of itself, and what is to know before it is used."""
    said = label.said
    if label.foreign:
        yield f'<span class="l-line warns">{say(texts, "shelf.foreign_here", model=label.base)}</span>'
    elif told := partly(label, checkpoint, texts):
        yield f'<span class="l-line">{told}</span>'
    if said.title:
        yield f'<span class="l-line l-title">{escape(short(said.title))}</span>'
    if said.trigger_words:
        yield f'<span class="l-line">{say(texts, "shelf.words", words=short(", ".join(said.trigger_words)))}</span>'
    if said.notes:
        notes = escape(short(said.notes))
        yield f'<span class="l-line l-notes" title="{notes}">{notes}</span>'
