"""Adding what the form holds as a job, editing a queued job in the form, and the way back from editing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from ..errors import InvalidCommand, InvalidRequest, UnusablePicture
from ..jobs.job import Job
from ..words import Message, Texts
from . import checkpoint_line, draft, refusals, sweep_rows
from .app_context import AppContext
from .controls import at_slots, is_one_frame
from .form import NAMES, Form
from .page import COMMAND, PRIVATE, Page, live, user_errors
from .refusals import REFUSED, insisting
from .speed import cache_in_words

NOTHING_WRONG = refusals.quiet((), True, Texts())


@dataclass(frozen=True)
class StartRow:
    """One button that adds a job; while a queued job is edited others, and words that say so.

    Attributes:
        mode: says which job is edited, above the form.
        anew: adds the changes as a job of their own; shown once it is too late to save them.
        refused: hidden; what is wrong with the form, see refusals.py.
    """

    mode: gr.HTML
    start: gr.Button
    buttons: gr.Row
    save: gr.Button
    anew: gr.Button
    leave: gr.Button
    said: gr.HTML
    refused: gr.Textbox


def mode_bar() -> gr.HTML:
    """Stands above the form."""
    return gr.HTML(elem_id="editing-mode", visible=False)


def start_row(page: Page, mode: gr.HTML) -> StartRow:
    """The buttons in the layout that is open."""
    start = page.t(gr.Button, "generate.start", variant="primary", size="lg", elem_id="start")
    with gr.Row(visible=False, elem_id="editing") as buttons:
        save = page.t(gr.Button, "generate.save", variant="primary", elem_id="save")
        anew = page.t(gr.Button, "generate.start_anew", variant="primary", elem_id="start-anew")
        leave = page.t(gr.Button, "generate.cancel_editing", elem_id="cancel-editing")
    said = gr.HTML(elem_id="said", html_template='<p role="status">${value}</p>')
    live("others", elem_id="others")
    return StartRow(mode, start, buttons, save, anew, leave, said, gr.Textbox(visible="hidden"))


def connect(page: Page, form: Form, row: StartRow, compare: gr.Button, sweep: Sequence[Component] = ()) -> None:
    """What the buttons do, ``compare`` among the form's fields too, and what entering and leaving the mode does.

    What goes through lists in ``sweep`` counts for Start alone.

    Another language says the mode anew, and no more what has been done.
    """
    starting = Starting(page.context, form)
    kept = draft.remember(page, form)
    form_now = [page.language, form.checkpoint, *form.components]
    added = row.start.click(user_errors(starting.add), [*form_now, *sweep], [row.said, row.refused], **COMMAND)
    added.success(None, row.said, None, js="said => said && framepack.toStage()", **PRIVATE)
    compared = compare.click(user_errors(starting.compare), form_now, [row.said, row.refused], **COMMAND)
    compared.success(None, row.said, None, js="said => said && framepack.toStage()", **PRIVATE)
    row.anew.click(user_errors(starting.add_anew), form_now, [row.said, row.refused, form.editing], **COMMAND)
    row.save.click(
        user_errors(starting.save), [form.editing, *form_now], [row.said, row.refused, form.editing], **COMMAND
    )
    row.leave.click(lambda: (0, "", NOTHING_WRONG), None, [form.editing, row.said, row.refused], **PRIVATE)
    page.spoken.change(
        lambda editing, language: ("", _mode_words(editing, language)),
        [form.editing, page.language],
        [row.said, row.mode],
        **PRIVATE,
    )
    row.refused.change(None, row.refused, None, js="text => framepack.refused(text)", **PRIVATE)
    form.editing.change(
        lambda editing, language, kept: [*_mode(editing, language), *_filled(editing, kept, form, page)],
        [form.editing, page.language, kept],
        [row.mode, row.start, row.buttons, *form.components, form.checkpoint],
        js="(editing, language) => [framepack.edits(editing), language, framepack.draft()]",
        **PRIVATE,
    )


class Starting:
    """What the buttons do. Each answers with what was done and what is wrong with the form, as refusals.py tells it;
    raises FramePackError for what is not the form's fault."""

    def __init__(self, context: AppContext, form: Form) -> None:
        self._context, self._form = context, form

    def add(self, language: str, chosen: str | None, *values: Any) -> tuple[str, str]:
        """Queue a job for the checkpoint of that name; several where ``values`` go on with lists to go through."""
        texts, shown = Texts(language), values[: len(NAMES)]
        try:
            jobs = self._added(chosen, shown, values[len(NAMES) :])
        except REFUSED as error:
            return "", self._insisting(error, shown, texts)
        first, last = jobs[0].id, jobs[-1].id
        if len(jobs) > 1:
            words = texts("generate.added_batch", pictures=len(jobs), first=first, last=last)
        else:
            words = when_in_words(jobs[0], self._context, texts)
        return until_begun(jobs[-1], words), NOTHING_WRONG

    def _added(self, chosen: str | None, values: Sequence[Any], swept: Sequence[Any]) -> list[Job]:
        fields, source = self._form.asked(values, chosen), self._context.source(chosen)
        axes = sweep_rows.axes_of(swept) if is_one_frame(fields) else []
        requests = sweep_rows.requests_of(fields, axes)
        if len(requests) == 1:
            return [self._context.queue.add(requests[0], source)]
        return self._context.queue.add_batch(requests, source)

    def _insisting(self, error: InvalidRequest | UnusablePicture, values: Sequence[Any], texts: Texts) -> str:
        return insisting(at_slots(error.problems, self._form.fields_of(values)), texts)

    def compare(self, language: str, chosen: str | None, *values: Any) -> tuple[str, str]:
        """Queue two jobs, with and without a step cache."""
        texts = Texts(language)
        try:
            one, other = self._context.queue.add_twins(
                self._form.request_of(values, chosen), self._context.source(chosen)
            )
        except REFUSED as error:
            return "", self._insisting(error, values, texts)
        caches = (cache_in_words(job.request.flat(), texts) for job in (one, other))
        words = texts("generate.compares", job=one.id, twin=other.id, one=next(caches), other=next(caches))
        return until_begun(other, words), NOTHING_WRONG

    def add_anew(self, language: str, chosen: str | None, *values: Any) -> tuple[str, str, Any]:
        """Queue what came too late for the edited job, and end editing."""
        said, refused = self.add(language, chosen, *values)
        return said, refused, 0 if said else gr.skip()

    def save(self, editing: int, language: str, chosen: str | None, *values: Any) -> tuple[str, str, Any]:
        """Change the edited job, and end editing."""
        texts, queue = Texts(language), self._context.queue
        if queue.job(editing).state != "queued":
            raise InvalidCommand(Message("queue.too_late", job=editing))
        try:
            job = queue.edit(editing, self._form.request_of(values, chosen), self._context.source(chosen))
        except REFUSED as error:
            return "", self._insisting(error, values, texts), gr.skip()
        return until_begun(job, texts("generate.saved", job=job.id)), NOTHING_WRONG, 0


def until_begun(job: Job, words: str) -> str:
    """What is said of a job as HTML; the script hides it when the job has begun."""
    return f'<span data-job="{job.id}">{escape(words)}</span>'


def when_in_words(job: Job, context: AppContext, texts: Texts) -> str:
    """When a new job's turn is: its place among those that wait, as the queue's tab counts them."""
    if context.queue.paused:
        return texts("generate.queued_paused", job=job.id)
    jobs = context.queue.jobs()
    waiting = [other.id for other in jobs if other.state == "queued"]
    first = not any(other.state == "running" for other in jobs) and waiting[:1] in ([], [job.id])
    if first or job.id not in waiting:
        return texts("generate.starts_now", job=job.id)
    return texts("generate.queued", job=job.id, place=waiting.index(job.id) + 1)


def _mode(editing: int, language: str) -> tuple[Any, Any, Any]:
    """What is shown while a job is edited, and what only then."""
    on = bool(editing)
    return gr.update(value=_mode_words(editing, language), visible=on), gr.update(visible=not on), gr.update(visible=on)


def _mode_words(editing: int, language: str) -> str:
    """Which job is edited, and what is said instead once its turn has come; the script marks when it has."""
    texts = Texts(language)
    words = "".join(
        f'<p class="{name}">{escape(texts(f"generate.editing_{name}", job=editing))}</p>'
        for name in ("in_time", "too_late")
    )
    return f'<div role="status">{words}</div>'


def _filled(editing: int, kept: Any, form: Form, page: Page) -> list[Any]:
    """For the form: the draft again when editing ends, and the checkpoint that the page showed before."""
    if editing:
        return [gr.skip() for _ in (*form.components, form.checkpoint)]
    before = draft.checkpoint_of(kept)
    return [*draft.restored(kept, form, page, before), checkpoint_line.offered(page.context, before)]
