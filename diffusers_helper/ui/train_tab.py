"""The tab where a LoRA is trained: the data with its captions, what is wanted, and the training as it goes on.

A folder is named as a path on the machine that runs the program. Who may open the page may name any that the program
can read; so without a password this is for browsers on the same machine alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ..errors import FramePackError, InvalidCommand, InvalidRequest, Problem, UnusableInput
from ..jobs.job import Job
from ..lora.shelf import new_place, shelf_folder
from ..models.table import Checkpoint
from ..settings import given_path
from ..training.goals import GOALS, QUALITIES, fields_for
from ..training.network_args import read_network_args
from ..training.order import TrainingOrder
from ..training.samples import read_samples
from ..words import Message, Texts
from . import train_data
from .app_context import AppContext, kinds_of
from .commands import Commands
from .folders import is_at_this_machine
from .form import Form
from .page import CLICKS, COMMAND, FORWARD_CLICKS, NEWEST, PRIVATE, Act, Page, live, user_errors
from .phrases import say
from .refusals import of_training
from .starting import until_begun, when_in_words
from .train_form import TrainForm, fields_of

GOAL, QUALITY = "style", "usual"
CAPTIONS = """
element.addEventListener('change', event => {
  const area = event.target.closest('[data-caption]');
  if (area) trigger('click', {act: 'caption', value: JSON.stringify({name: area.dataset.caption, text: area.value})});
});
"""
FOLLOW_CHECKPOINT = ("kind", "guidance_scale")
"""Fields that another checkpoint sets."""


def build(page: Page, form: Form, tab: gr.Tab) -> None:
    """What is asked for on the left, the training on the right."""
    with gr.Row(elem_id="train"):
        with gr.Column(elem_id="train-ask", min_width=300):
            data, look, listed, told = _data(page)
            goal, quality = _wishes(page)
            name = page.t(gr.Textbox, "train.out", max_lines=1, elem_id="train-out")
            with page.t(gr.Accordion, "train.advanced", open=False, elem_id="train-advanced"):
                fields = TrainForm(page, wished(GOAL, QUALITY, page.context.checkpoint))
            line = gr.HTML(elem_id="train-checkpoint", min_height=0)
            start = page.t(gr.Button, "train.start", variant="primary", size="lg", elem_id="train-start")
            said = gr.HTML(elem_id="train-said", html_template='<p role="status">${value}</p>')
            refused = gr.Textbox(visible="hidden")
        with gr.Column(elem_id="train-stage", min_width=300):
            stage = live("training")
    commands = Commands(page, form)
    stage.click(user_errors(commands.carry_out), commands.asked, commands.outputs, **CLICKS)
    training = Trainings(page.context)
    shown = [listed, told]
    gr.on([look.click, data.submit], user_errors(training.look), [page.language, data], shown, **COMMAND, **NEWEST)
    listed.click(user_errors(training.act), [page.language, data], shown, **CLICKS)
    asked = [page.language, form.checkpoint, data, name, *fields.components]
    start.click(user_errors(training.start), asked, [said, refused], **COMMAND)
    refused.change(None, refused, None, js="text => framepack.refused(text)", **PRIVATE)
    _follow(page, form, tab, fields, (goal, quality), line)


def _data(page: Page) -> tuple[gr.Textbox, gr.Button, gr.HTML, gr.HTML]:
    """Where the data is, the button that looks, and the places of what lies there and of what was done."""
    data = page.t(gr.Textbox, "train.data", max_lines=1, elem_id="train-data")
    look = page.t(gr.Button, "train.look", size="sm", elem_id="train-look")
    told = gr.HTML(elem_id="train-told", html_template='<p role="status">${value}</p>', min_height=0)
    listed = gr.HTML(elem_id="train-listed", js_on_load=FORWARD_CLICKS + CAPTIONS, min_height=0)
    return data, look, listed, told


def _wishes(page: Page) -> tuple[gr.Radio, gr.Radio]:
    goal = page.t(gr.Radio, "train.goal", tuple(GOALS), value=GOAL, elem_id="train-goal")
    return goal, page.t(gr.Radio, "train.quality", tuple(QUALITIES), value=QUALITY, elem_id="train-quality")


def _follow(
    page: Page, form: Form, tab: gr.Tab, fields: TrainForm, wishes: tuple[gr.Radio, gr.Radio], line: gr.HTML
) -> None:
    """What a goal, a quality and another checkpoint set."""
    context = page.context

    def wish(goal: str, quality: str, name: str | None) -> list[Any]:
        return list(wished(goal, quality, context.shown(name)).values())

    def other(name: str | None, language: str) -> list[Any]:
        sets = wished(GOAL, QUALITY, context.shown(name))
        return [line_of(context, name, language), *(sets[field] for field in FOLLOW_CHECKPOINT)]

    def said(name: str | None, language: str) -> str:
        return line_of(context, name, language)

    for one in wishes:
        set_by = [fields[name] for name in wished(GOAL, QUALITY, None)]
        one.input(wish, [*wishes, form.checkpoint], set_by, **PRIVATE, **NEWEST)
    asked = [form.checkpoint, page.language]
    form.checkpoint.change(other, asked, [line, *(fields[name] for name in FOLLOW_CHECKPOINT)], **PRIVATE)
    gr.on([tab.select, page.language.input], said, asked, line, **PRIVATE, **NEWEST)


def wished(goal: str, quality: str, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """The fields that a goal and a quality set, for a checkpoint."""
    return fields_for(goal, quality, kinds_of(checkpoint), checkpoint.guidance if checkpoint else 1.0)


def line_of(context: AppContext, name: str | None, language: str) -> str:
    """For which checkpoint the LoRA will be."""
    checkpoint = context.shown(name)
    words = say(Texts(language), "train.checkpoint", name=checkpoint.name) if checkpoint else ""
    return f'<p class="q-dim">{words}</p>'


class Trainings:
    """What the tab does. Each raises FramePackError for what is not the fault of one field."""

    def __init__(self, context: AppContext) -> None:
        self._context = context

    def look(self, request: gr.Request, language: str, data: str) -> list[Any]:
        """The files of the data, and how many there are."""
        return self._listed(request, language, data, train_data.STEP)

    def act(self, request: gr.Request, language: str, data: str, event: gr.EventData) -> list[Any]:
        """A click or a change in the list: more files, or a caption to be written. What is being typed stays."""
        act, texts = Act.of(event), Texts(language)
        if act.name == "more":
            return self._listed(request, language, data, train_data.shown_count(act.value))
        if act.name != "caption":
            return [gr.skip(), gr.skip()]
        self._refuse_stranger(request)
        saved = say(texts, "train.caption_saved", name=train_data.save_caption(data, act.value).name)
        return [gr.skip(), f"{saved} {train_data.counts_html(train_data.found_in(data), texts)}"]

    def start(
        self, request: gr.Request, language: str, chosen: str | None, data: str, name: str, *values: Any
    ) -> tuple[str, str]:
        """Queue a training for the checkpoint of that name; what was done, and what is wrong with the fields."""
        self._refuse_stranger(request)
        texts = Texts(language)
        try:
            job = self._added(chosen, data, name, fields_of(values))
        except InvalidRequest as error:
            return "", of_training(error.problems or _of("data", error).problems, texts)
        return until_begun(job, when_in_words(job, self._context, texts)), of_training((), texts)

    def _added(self, chosen: str | None, data: str, name: str, fields: dict[str, Any]) -> Job:
        """Raises InvalidRequest."""
        said = {"data": data, "out": name}
        if missing := [Problem(field, "missing") for field in said if not said[field].strip()]:
            raise InvalidRequest("something is missing", missing)
        _at("data", lambda: train_data.refuse_unusable(data))
        out = _at("out", lambda: new_place(self._place(), name))
        whole = {**fields, "data": str(given_path(data.strip()).absolute()), "out": str(out)}
        order = TrainingOrder.parse(whole)
        _at("network_args", lambda: read_network_args(order.network_args))
        _at("sample_prompts", lambda: _refuse_samples(order))
        self._refuse_other_kind(order, chosen)
        return self._context.queue.add_training(order, self._context.source(chosen))

    def _place(self) -> Any:
        """The shelf's folder, which has to be there for its file."""
        folder = shelf_folder(self._context.settings.paths.models_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _refuse_other_kind(self, order: TrainingOrder, chosen: str | None) -> None:
        """Videos are learnt as a kind that the checkpoint makes. Raises InvalidRequest."""
        kinds = kinds_of(self._context.shown(chosen))
        if order.kind not in kinds and train_data.has_videos(order.data):
            raise InvalidRequest(order.kind, [Problem("kind", "choice", order.kind, {"choices": kinds})])

    def _listed(self, request: gr.Request, language: str, data: str, count: int) -> list[Any]:
        self._refuse_stranger(request)
        found, texts = train_data.found_in(data), Texts(language)
        return [train_data.data_html(found, count, texts), train_data.counts_html(found, texts)]

    def _refuse_stranger(self, request: gr.Request) -> None:
        """Raises InvalidCommand for somebody elsewhere who needed no password."""
        here = is_at_this_machine(request.client.host if request.client else "", request.headers)
        if not here and self._context.settings.page.auth is None:
            raise InvalidCommand(Message("training.stranger"))


def _refuse_samples(order: TrainingOrder) -> None:
    """Raises InvalidRequest for a file of samples that cannot be read, or that is missing."""
    if order.sample_prompts is not None:
        read_samples(given_path(order.sample_prompts), order.kind)
    elif order.sample_every_n_steps or order.sample_every_n_epochs or order.sample_at_first:
        raise InvalidRequest(Message("training.no_samples"))


def _at(field: str, does: Callable[[], Any]) -> Any:
    """What ``does`` does; an error of it is one of the field. Raises InvalidRequest."""
    try:
        return does()
    except UnusableInput as error:
        raise _of(field, error) from None


def _of(field: str, error: FramePackError) -> InvalidRequest:
    return InvalidRequest(error.said, [Problem(field, "said", limits={"reason": error.said})])
