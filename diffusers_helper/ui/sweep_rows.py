"""Several pictures of one form: one or two of its values go through lists, and Start adds a job for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component

from ..errors import InvalidRequest, Problem
from ..request import Request, sweep
from ..request.sweep import FIELD, MOST_AXES, Axis, cells, read_axis
from .controls import is_one_frame
from .page import Page

NOTHING = "none"
WHAT = ("target_index", "control_index", "seed", "lora_weight", "latent_window")
LONGEST_VALUES = 1000
"""Characters."""


def build(page: Page) -> list[Component]:
    """The rows, in the layout that is open; of each what goes through a list, and the list."""
    made: list[Component] = []
    with gr.Column(elem_id=FIELD):
        for _ in range(MOST_AXES):
            with gr.Row(elem_classes="sweep-row"):
                look: Mapping[str, Any] = {"value": NOTHING, "filterable": False, "min_width": 120}
                name = page.t(gr.Dropdown, "generate.sweep", (NOTHING, *WHAT), **look)
                values = page.t(gr.Textbox, "generate.sweep_values", max_lines=1, min_width=120)
            made += [name, values]
    return made


def axes_of(swept: Sequence[Any], unfinished: bool = True) -> list[Axis]:
    """What goes through lists. Without ``unfinished`` what has no list yet is left out. Raises InvalidRequest."""
    pairs = zip(swept[::2], swept[1::2], strict=True)
    told = [(name, str(values or "").strip()[:LONGEST_VALUES]) for name, values in pairs if name in WHAT]
    return [read_axis(f"{name}={values}") for name, values in told if values or unfinished]


def requests_of(flat: Mapping[str, Any], axes: Sequence[Axis]) -> list[Request]:
    """Every request; without axes the one. A seed that is to be drawn is drawn once. Raises InvalidRequest."""
    request = Request.parse(flat)
    if not axes:
        return [request]
    try:
        return sweep.requests_of(request, flat, axes)
    except InvalidRequest as error:
        raise InvalidRequest(error.said, at_sweep(error.problems, axes)) from None


def at_sweep(problems: Sequence[Problem], axes: Sequence[Axis]) -> tuple[Problem, ...]:
    """The same problems; those of a value that comes out of a list are told there."""
    fields = {axis.field for axis in axes} | {"loras"}
    return tuple(replace(each, field=FIELD) if each.field.split(".")[0] in fields else each for each in problems)


def pictures_of(fields: Mapping[str, Any], swept: Sequence[Any]) -> tuple[int, Sequence[Problem]]:
    """How many pictures come of a form, and what is wrong with the lists as far as they are there."""
    if not is_one_frame(fields):
        return 1, ()
    try:
        axes = axes_of(swept, unfinished=False)
        return len(cells({"loras": fields.get("loras", ())}, axes)), ()
    except InvalidRequest as error:
        return 1, at_sweep(error.problems, ())
