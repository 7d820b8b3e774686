"""One picture on the Generate tab: its mode, the slots for pictures, the time ruler, and several pictures at once.

Slots and ruler are shown and changed by the page's scripts (one_frame.js), from the form's components and into them.
What only a video has is out of sight meanwhile, by the style sheet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from ..request.fields import PICTURE, PICTURES
from ..request.request import MOST_PICTURES
from ..sections.modes import MODES
from ..words import Texts
from . import sweep_rows
from .controls import CONTROL_INDEX, ONE_FRAME
from .form import Form, changes
from .form_values import EMBEDDING, embeddings
from .options import KIND, parameters_of
from .page import NEWEST, PRIVATE, Page
from .server import upload_address
from .translation import worded

CUSTOM = "custom"
WINDOW = "latent_window"
FIELDS = tuple(name for name, option in parameters_of(KIND).items() if option == ONE_FRAME)
SET_BY_MODE = tuple(next(iter(MODES.values())).flat())
DRAWN = (PICTURES, *(name for name in FIELDS if name != EMBEDDING), WINDOW)
"""What the scripts show; all but the last they also change."""
SLOTS = '<ol data-slots></ol><p class="slot-acts"><button type="button" class="q-button" data-add></button></p>'
RULER = '<div class="ruler" data-ruler role="group"></div>'
CHANGED = "document.addEventListener('framepack-one-frame', () => trigger('click'));"
"""The scripts have changed what they show."""
EVERY_TIME: Mapping[str, Any] = {**PRIVATE, "trigger_mode": "multiple"}
SCRIPTS_SAY = (
    "slots", "role_first", "role", "time", "choose", "drop", "add", "back", "ahead", "clear_slot", "take_away",
    "paint_mask", "mask_file", "mask_none", "mask_of", "ruler", "target", "control", "post", "two_x", "four_x", "on",
    "off", "brush", "paint", "black", "white", "soft", "fill", "clear", "invert", "undo", "save", "cancel", "hint",
    "no_drawing", "not_shown",
)  # fmt: skip
"""The texts that they show, of ``slots``."""


def place_kinds(form: Form) -> None:
    """The choice of what is made, above the form."""
    form.place(KIND, elem_id=f"field-{KIND}", container=False)


def place_pictures(page: Page, form: Form) -> gr.Radio:
    """Mode and slots; returns the mode."""
    with gr.Column(elem_id="one-frame", elem_classes="only-picture"):
        mode = page.t(gr.Radio, "generate.one_frame_mode", (*MODES, CUSTOM), value=ONE_FRAME, elem_id="one-frame-mode")
        with gr.Column(elem_id=PICTURES):
            gr.HTML(SLOTS, min_height=0)
        form.place(PICTURES, visible="hidden")
    return mode


def place_time(page: Page, form: Form) -> tuple[gr.HTML, list[Component]]:
    """The ruler, the same in numbers, and several pictures; returns the ruler, and what goes through lists."""
    with form.place_of(KIND, ONE_FRAME):
        with gr.Column(elem_id="one-frame-time"):
            page.t(gr.HTML, "generate.one_frame_time", html_template="<h2>${value}</h2>")
            ruler = gr.HTML(RULER, js_on_load=CHANGED, min_height=0)
            said = gr.HTML(said_html(form.uploads, Texts()), min_height=0)
        page.spoken.change(lambda language: said_html(form.uploads, Texts(language)), page.language, said, **PRIVATE)
        for name in FIELDS:
            form.place_with_reset(name, elem_id=f"field-{name}")
        with gr.Column(elem_id="sweep-place"):
            sweep = sweep_rows.build(page)
    return ruler, sweep


def connect(page: Page, form: Form, mode: gr.Radio, ruler: gr.HTML) -> None:
    """What a mode sets, and what goes between the components and the scripts; once all fields are placed."""
    mode.input(fields_of_mode, mode, [form[name] for name in SET_BY_MODE], **PRIVATE, **NEWEST)
    drawn, moved = [form[name] for name in DRAWN], [form[name] for name in (KIND, PICTURE, PICTURES)]
    ruler.click(None, None, drawn[:-1], js="() => framepack.oneFrame()", **EVERY_TIME)
    redraw = "(...values) => framepack.oneFrameIs(...values)"
    gr.on(changes(drawn), None, drawn, None, js=redraw, **EVERY_TIME)
    getattr(form[KIND], "input")(  # noqa: B009
        None,
        moved,
        moved[1:],
        js="(...values) => framepack.kindIs(...values)",
        **PRIVATE,
        **NEWEST,
    )


def fields_of_mode(mode: str) -> list[Any]:
    """For SET_BY_MODE; custom sets nothing."""
    sets = MODES[mode].flat() if mode in MODES else {}
    return [sets.get(name, gr.skip()) for name in SET_BY_MODE]


def mode_of(fields: Mapping[str, Any]) -> str:
    """The mode whose values these are, or CUSTOM."""
    for name, mode in MODES.items():
        if all(fields.get(field) == value for field, value in mode.flat().items()):
            return name
    return CUSTOM


def embedding_update(fields: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    """What the image encoder can see: as many pictures as there are places, and what the form says."""
    places = min(str(fields[CONTROL_INDEX]).count(";") + 1, MOST_PICTURES)
    choices = [*embeddings(places)]
    return gr.update(choices=worded(f"generate.{EMBEDDING}", choices, texts))


def said_html(uploads: Path, texts: Texts) -> str:
    """What the scripts have to know: their texts, where uploads lie, and where they are served."""
    words = {**{name: texts(f"slots.{name}") for name in SCRIPTS_SAY}, "not_sent": texts("page.not_sent")}
    told = {"words": words, "folder": str(uploads), "address": f"{upload_address(str(uploads))}/"}
    return f'<span hidden data-one-frame="{escape(json.dumps(told, ensure_ascii=False))}"></span>'
