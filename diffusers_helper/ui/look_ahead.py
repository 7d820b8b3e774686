"""What the form shows about itself: true length, time, level, and which controls have no effect. No side effects."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ..errors import InvalidRequest, Problem, UnusablePicture
from ..preparation import beyond_seconds
from ..request import Request
from ..sections.plan import plan_video
from .desk import Desk
from .form import NAMES, Form
from .framing import framing_of
from .refusals import quiet
from .speed import level_of
from .texts import Texts
from .words import duration, number

IDLE = ("negative_prompt", "cfg_rescale", "teacache_threshold")
"""Fields that act only together with others."""


def speed_update(fields: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    """The level the fields are at, and in words what it sets."""
    cache = "generate.speed_cache_on" if fields["teacache"] else "generate.speed_cache_off"
    sets = texts(
        "generate.speed_sets",
        steps=number(fields["steps"]),
        cache=texts(cache, threshold=number(fields["teacache_threshold"])),
    )
    return gr.update(value=level_of(fields), info=sets)


def problems_of(fields: Mapping[str, Any]) -> Sequence[Problem]:
    """What is wrong with the form but for a missing picture."""
    try:
        Request.parse({"picture": "none", **fields})
    except InvalidRequest as error:
        return error.problems
    return ()


def plan_html(fields: Mapping[str, Any], desk: Desk, texts: Texts, chosen: str | None = None) -> str:
    """What will be made and how long it takes; or which fields stand in the way."""
    if problems := problems_of(fields):
        names = ", ".join(texts(f"generate.{problem.field}") for problem in problems)
        return f'<p class="plan wrong">{html.escape(texts("refusal.plan", fields=names))}</p>'
    request = Request.parse({"picture": "none", **fields})
    plan = plan_video(request.kind, request.seconds, request.latent_window, request.fps)
    length = texts("generate.plan_length", seconds=f"{plan.frames / request.fps:.1f}", frames=plan.frames)
    sections = texts("generate.plan_sections", sections=len(plan.sections))
    checkpoint = desk.shown(chosen)
    seconds = desk.queue.estimate(request, checkpoint.source if checkpoint else "")
    if seconds is None:
        time = texts("generate.plan_time_unknown")
    else:
        time = texts("generate.plan_time", time=duration(seconds, texts))
    limit = beyond_seconds(plan, request.fps, checkpoint) if checkpoint else None
    beyond = f'<span class="beyond">{texts("generate.plan_beyond", limit=number(limit))}</span>' if limit else ""
    return f'<p class="plan"><strong>{length}</strong><span>{sections}</span><span>{time}</span>{beyond}</p>'


def framing_html(
    fields: Mapping[str, Any], desk: Desk, texts: Texts, chosen: str | None = None
) -> tuple[str, Sequence[Problem]]:
    """What becomes of the start picture, and why it cannot be used; empty where there is nothing to say."""
    checkpoint = desk.shown(chosen)
    if "picture" not in fields or checkpoint is None:
        return "", ()
    try:
        return framing_of(fields["picture"], fields["size"], checkpoint).as_html(texts), ()
    except UnusablePicture as error:
        return "", error.problems
    except KeyError:  # Another checkpoint has been chosen since; the form says so.
        return "", ()


def idle_updates(fields: Mapping[str, Any], texts: Texts) -> list[dict[str, Any]]:
    """For IDLE: greyed, with the reason, while nothing reads them."""
    without_cfg = fields["real_cfg"] == 1
    idle = {"negative_prompt": without_cfg, "cfg_rescale": without_cfg, "teacache_threshold": not fields["teacache"]}
    return [
        gr.update(interactive=not idle[name], info=texts(f"generate.{name}_{'idle' if idle[name] else 'info'}"))
        for name in IDLE
    ]


def look_ahead(form: Form, desk: Desk, language: str, values: Sequence[Any], chosen: str | None = None) -> list[Any]:
    """What is wrong, as refusals.py tells it; then updates for framing, speed, plan, IDLE and the reset buttons."""
    texts = Texts(language)
    fields = form.fields_of(values)
    framing, unusable = framing_html(fields, desk, texts, chosen)
    return [
        quiet((*unusable, *problems_of(fields)), "picture" in fields, texts),
        framing,
        speed_update(fields, texts),
        plan_html(fields, desk, texts, chosen),
        *idle_updates(fields, texts),
        *form.reset_updates(dict(zip(NAMES, values, strict=True)), texts, chosen),
    ]
