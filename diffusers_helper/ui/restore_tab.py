"""The tab that takes settings out of a file: what the file says beside what the form says, and what to take of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import UnusableInput
from ..media.metadata import is_png, read_head
from ..recall import Recalled, differences, recall
from ..request.fields import PICTURE, PICTURES
from ..words import Message, Texts
from . import controls
from .controls import Control, is_one_frame
from .draft import now_shown
from .form import NAMES, NO_PICTURE_HAS, Form
from .page import CLICKS, PRIVATE, Act, Page, inform, user_errors
from .phrases import field_value
from .refusals import of_a_value
from .server import upload_address

MOST_IGNORED = 60
"""So many unknown keys are listed."""

FORWARD_CHOICE = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-act]');
  if (!button || !element.contains(button)) return;
  const ticked = [...element.querySelectorAll('input[data-field]:checked')].map(box => box.dataset.field);
  trigger('click', {act: button.dataset.act, value: ticked.join(' ')});
});
"""


@dataclass(frozen=True)
class Found:
    """A file that was read.

    Attributes:
        recalled: what it says.
        picture: the path of the start picture, when that is the file itself or known from the job that made it.
        thumbnail: the picture's address on this page.
        pictures: of one picture the control pictures, when they are known from the job that made it.
    """

    path: str
    recalled: Recalled
    picture: str = ""
    thumbnail: str = ""
    pictures: tuple[Control, ...] = ()

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def fields(self) -> dict[str, Any]:
        """What the form could take. The file of one picture goes without saying."""
        useless = NO_PICTURE_HAS if is_one_frame(self.recalled.fields) else ()
        fields = {name: value for name, value in self.recalled.fields.items() if name in NAMES and name not in useless}
        inputs = {PICTURE: self.picture, PICTURES: self.pictures}
        return {**{name: value for name, value in inputs.items() if value}, **fields}


def build(page: Page, form: Form) -> None:
    """A place for the file, and below it what was found."""
    page.t(gr.Markdown, "restore.intro")
    file = page.t(gr.File, "restore.file", type="filepath", elem_id="restore-file", height=150)
    found = gr.State(None)
    shown = gr.HTML("", js_on_load=FORWARD_CHOICE, elem_id="restore-found")
    restore = Restore(page, form)
    context = [page.language, form.checkpoint, *form.components]
    file.change(restore.read, [file, *context], [found, shown], **PRIVATE)
    for changed in (page.tabs.select, page.spoken.change):
        changed(
            lambda found, language, now: restore.compare(found, language, *now_shown(now, form)),
            [found, page.language, form.now],
            shown,
            js="(found, language, now) => [found, language, framepack.formNow()]",
            **PRIVATE,
        )
    asked = [found, page.language, form.checkpoint]
    shown.click(user_errors(restore.take), asked, [*form.components, page.tabs], **CLICKS)


class Restore:
    """What the tab does; ``chosen`` names the checkpoint of the form, ``values`` are those of its components."""

    def __init__(self, page: Page, form: Form) -> None:
        self._context, self._form = page.context, form

    def read(self, path: str | None, language: str, chosen: str | None, *values: Any) -> tuple[Found | None, str]:
        """What the dropped file says, compared with the form; or why it cannot be used."""
        if not path:
            return None, ""
        try:
            recalled = recall(Path(path))
        except UnusableInput as error:
            return None, f'<p class="q-error" role="alert">{escape(Texts(language).said(error.said))}</p>'
        if is_one_frame(recalled.fields):
            found = Found(path, recalled, pictures=self._pictures_of(Path(path)))
        else:
            found = Found(path, recalled, *self._picture_of(Path(path), recalled))
        return found, self.compare(found, language, chosen, *values)

    def _picture_of(self, path: Path, recalled: Recalled) -> tuple[str, str]:
        """The start picture and its address: a PNG of ours is one; a video's is kept with the job that made it."""
        if recalled.source != "framepack":
            return "", ""
        if is_png(read_head(path)):
            return str(path), upload_address(str(path))
        for job in self._context.queue.jobs():
            if not _is_copy(path, job.progress.video):
                continue
            if (picture := self._context.queue.picture(job.id)).is_file():
                return str(picture), f"media/{job.id}/thumb.png"
        return "", ""

    def _pictures_of(self, path: Path) -> tuple[Control, ...]:
        """The control pictures as the job that made the file has them."""
        for job in self._context.queue.jobs():
            if _is_copy(path, job.progress.video):
                return tuple(job.request.flat().get(PICTURES, ()))
        return ()

    def compare(self, found: Found | None, language: str, chosen: str | None, *values: Any) -> str:
        """The comparison as HTML; nothing before there is a file."""
        if found is None:
            return ""
        fields = self._form.offered(found.fields, chosen)
        refused = {name: value for name, value in found.fields.items() if name not in fields}
        return found_html(found, fields, refused, self._form.fields_of(values), Texts(language))

    def take(self, found: Found | None, language: str, chosen: str | None, event: gr.EventData) -> list[Any]:
        """Fills the form with what was chosen and shows it. Raises UnusableInput."""
        texts, act = Texts(language), Act.of(event)
        wanted = {"prompt": {"prompt"}, "seed": {"seed"}}.get(act.name, set(act.value.split()))
        told = found.fields if found else {}
        fields = self._form.offered({name: value for name, value in told.items() if name in wanted}, chosen)
        if not found or not fields:
            raise UnusableInput(Message("restore.none_ticked"))
        inform(texts("restore.taken", count=len(fields)))
        return [*self._form.values_of(fields, chosen), gr.Tabs(selected="generate")]


def found_html(
    found: Found, fields: Mapping[str, Any], refused: Mapping[str, Any], current: Mapping[str, Any], texts: Texts
) -> str:
    """What the file told, as HTML; all of it is a stranger's text and escaped."""
    told = found.recalled
    checkpoint = told.checkpoint or texts("restore.unknown_checkpoint")
    title = texts(f"restore.source_{told.source}", file=found.name, checkpoint=checkpoint)
    not_taken = [
        f"{texts(f'generate.{one.field}')}: {one.value} ({of_a_value(one.refusal, texts)})" for one in told.not_taken
    ]
    not_taken += [
        texts("restore.not_offered", field=texts(f"generate.{name}"), value=value) for name, value in refused.items()
    ]
    notes = [texts(f"restore.note_{note}") for note in told.notes]
    notes += [] if found.picture or found.pictures else [texts("restore.no_picture")]
    ignored = [*told.ignored[:MOST_IGNORED], *(["…"] if len(told.ignored) > MOST_IGNORED else [])]
    return (
        f'<h2 class="r-title">{escape(title)}</h2>'
        + _choice(found, fields, current, texts)
        + _list(texts("restore.not_taken"), not_taken)
        + _list(texts("restore.notes"), notes)
        + _list(texts("restore.ignored", count=len(told.ignored)), [", ".join(ignored)] if ignored else [])
    )


def _choice(found: Found, fields: Mapping[str, Any], current: Mapping[str, Any], texts: Texts) -> str:
    """The table of differences and the buttons."""
    changes = differences(current, fields)
    rows = [
        _row(name, field_value(name, old, texts), field_value(name, new, texts), texts) for name, old, new in changes
    ]
    if found.picture:
        rows.insert(0, _picture_row(current.get(PICTURE), found.thumbnail, texts))
    if found.pictures:
        there = controls.paths_of(current) if is_one_frame(current) else ()
        rows.insert(0, _row(PICTURES, _count(there, texts), _count(found.pictures, texts), texts))
    if not rows:
        return f"<p>{escape(texts('restore.nothing_new' if fields else 'restore.nothing_usable'))}</p>"
    names = {name for name, _, _ in changes}
    quick = [name for name in ("prompt", "seed") if name in names]
    buttons = _button("some", texts("restore.some"), "q-primary")
    buttons += "".join(_button(name, texts(f"restore.{name}_only")) for name in quick)
    heads = "".join(f'<th scope="col">{escape(texts(f"restore.{key}"))}</th>' for key in ("field", "old", "new"))
    return (
        f'<table class="r-diff"><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'<p class="q-acts">{buttons}</p>'
    )


def _count(pictures: Sized, texts: Texts) -> str:
    return texts("restore.pictures", count=len(pictures)) if pictures else texts("restore.picture_none")


def _row(name: str, old: str, new: str, texts: Texts) -> str:
    return _row_html(name, escape(old), escape(new), texts)


def _picture_row(old: str | None, new: str, texts: Texts) -> str:
    there = _thumbnail(upload_address(old)) if old else escape(texts("restore.picture_none"))
    return _row_html(PICTURE, there, _thumbnail(new), texts)


def _row_html(name: str, old: str, new: str, texts: Texts) -> str:
    field = texts(f"generate.{name}")
    label = escape(texts("restore.take", field=field))
    return (
        f'<tr><td><input type="checkbox" checked data-field="{name}" aria-label="{label}"></td>'
        f'<th scope="row">{escape(field)}</th><td><del>{old}</del></td><td><ins>{new}</ins></td></tr>'
    )


def _thumbnail(address: str) -> str:
    return f'<img class="r-thumb" src="{escape(address)}" alt="">'


def _is_copy(path: Path, video: str | None) -> bool:
    """Whether the file at ``path`` is one of our videos, as far as name and size tell."""
    try:
        return video is not None and path.name == Path(video).name and path.stat().st_size == Path(video).stat().st_size
    except OSError:
        return False


def _list(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<h3 class="r-head">{escape(title)}</h3><ul class="r-list">{items}</ul>' if items else ""


def _button(act: str, words: str, kind: str = "") -> str:
    return f'<button type="button" class="q-button {kind}" data-act="{act}">{escape(words)}</button>'
