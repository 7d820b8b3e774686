"""What the form shows about itself: true length, time, level, and which controls have no effect. No side effects."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ..errors import InvalidRequest, Problem
from ..lora.watch import Watch
from ..models.table import Checkpoint
from ..preparation import beyond_seconds, refuse_size
from ..request import Recipe
from ..request.fields import PICTURE, PICTURES
from ..sections.plan import VideoPlan
from ..words import Texts
from . import controls, lora_section, loras, sweep_rows
from .app_context import AppContext
from .form import NAMES, Form
from .framing import framing_of
from .loras import LORAS
from .one_frame_section import embedding_update, mode_of
from .phrases import duration, number
from .refusals import REFUSED, quiet
from .speed import cache_in_words, level_of, published_pair

IDLE = ("negative_prompt", "cfg_rescale")
"""Fields that act only together with others."""


def speed_update(fields: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    """The level the fields are at, and in words what it sets."""
    sets = texts("generate.speed_sets", steps=number(fields["steps"]), cache=cache_in_words(fields, texts))
    return gr.update(value=level_of(fields), info=sets)


def problems_of(fields: Mapping[str, Any], checkpoint: Checkpoint | None, watch: Watch) -> Sequence[Problem]:
    """What is wrong with the form but for a missing picture; of what the checkpoint makes the size and the LoRAs."""
    wrong = loras.problems_of(fields.get(LORAS, ()), watch, checkpoint)
    try:
        recipe = Recipe.parse(_without_files(fields))
        if checkpoint:
            refuse_size(recipe, checkpoint)
    except InvalidRequest as error:
        return (*error.problems, *wrong)
    kind = recipe.kind
    misfits = (Problem(f"{kind.name}_{name}", "said", None, {"reason": why}) for name, why in kind.misfits(()))
    return (*misfits, *wrong)


def _without_files(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What can be judged without looking for a file."""
    return {name: value for name, value in fields.items() if name not in (PICTURE, PICTURES, LORAS)}


def plan_html(
    fields: Mapping[str, Any], context: AppContext, texts: Texts, chosen: str | None = None, pictures: int = 1
) -> str:
    """What will be made and how long it takes, so many pictures where it is one; or which fields stand in the way."""
    checkpoint = context.shown(chosen)
    if problems := problems_of(fields, checkpoint, context.loras):
        names = ", ".join(texts(f"generate.{problem.field}") for problem in problems)
        return f'<p class="plan wrong">{html.escape(texts("refusal.plan", fields=names))}</p>'
    recipe = Recipe.parse(_without_files(fields))
    plan = recipe.plan()
    seconds = context.queue.estimate(recipe, checkpoint.source if checkpoint else "")
    if seconds is None:
        time = texts("generate.plan_time_unknown")
    else:
        time = texts("generate.plan_time", time=duration(seconds * pictures, texts))
    limit = beyond_seconds(plan, recipe.fps, checkpoint) if checkpoint else None
    beyond = f'<span class="beyond">{texts("generate.plan_beyond", limit=number(limit))}</span>' if limit else ""
    return f'<p class="plan">{_amount(plan, recipe.fps, pictures, texts)}<span>{time}</span>{beyond}</p>'


def _amount(plan: VideoPlan, fps: int, pictures: int, texts: Texts) -> str:
    """How much is made."""
    if plan.result == "picture":
        return f"<strong>{texts('generate.plan_pictures', pictures=pictures)}</strong>"
    length = texts("generate.plan_length", seconds=f"{plan.frames / fps:.1f}", frames=plan.frames)
    sections = texts("generate.plan_sections", sections=len(plan.sections))
    return f"<strong>{length}</strong><span>{sections}</span>"


def framing_html(
    fields: Mapping[str, Any], context: AppContext, texts: Texts, chosen: str | None = None
) -> tuple[str, Sequence[Problem]]:
    """What becomes of the first picture, and why one cannot be used; empty where there is nothing to say."""
    checkpoint, pictures = context.shown(chosen), controls.paths_of(fields)
    if not pictures or checkpoint is None:
        return "", ()
    try:
        controls.refuse_unusable(fields)
        return framing_of(pictures[0], fields["size"], checkpoint).as_html(texts), ()
    except REFUSED as error:
        return "", controls.at_slots(error.problems, fields)
    except ValueError:  # What stands there is no size; the form says so.
        return "", ()


def idle_updates(fields: Mapping[str, Any], texts: Texts) -> list[dict[str, Any]]:
    """For IDLE: greyed, with the reason, while nothing reads them."""
    idle = fields["real_cfg"] == 1
    return [
        gr.update(interactive=not idle, info=texts(f"generate.{name}_{'idle' if idle else 'info'}")) for name in IDLE
    ]


def look_ahead(
    form: Form, context: AppContext, language: str, values: Sequence[Any], chosen: str | None = None
) -> list[Any]:
    """What is wrong, as refusals.py tells it; then updates for framing, speed, plan, MagCache's pair, LoRAs' hints,
    the mode of one picture, IDLE, what the image encoder may see, and defaults. ``values``: those of the form's
    components, and what goes through lists."""
    texts, shown = Texts(language), values[: len(NAMES)]
    fields = form.fields_of(shown)
    framing, unusable = framing_html(fields, context, texts, chosen)
    pictures, of_lists = sweep_rows.pictures_of(fields, values[len(NAMES) :])
    wrong = (*unusable, *of_lists, *problems_of(fields, context.shown(chosen), context.loras))
    return [
        quiet(wrong, controls.has_its_pictures(fields), texts),
        framing,
        speed_update(fields, texts),
        plan_html(fields, context, texts, chosen, pictures),
        gr.update(value=published_pair(fields)),
        lora_section.hints_html(fields, context, texts, chosen),
        gr.update(value=mode_of(fields)),
        *idle_updates(fields, texts),
        embedding_update(fields, texts),
        form.resets_text(dict(zip(NAMES, shown, strict=True)), texts, chosen),
    ]
