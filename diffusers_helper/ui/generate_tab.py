"""The tab where a video is asked for and watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from ..request.fields import PICTURE
from . import checkpoint_line, lora_section, machine, one_frame_section
from .app_context import AppContext
from .commands import Commands
from .draft import now_shown
from .form import Form, changes
from .form_values import EMBEDDING
from .look_ahead import IDLE, look_ahead
from .options import CACHE, OF_OPTION, OUTPUT, options_of, parameters_of
from .page import CLICKS, FORWARD_CLICKS, NEWEST, PRIVATE, Act, Page, live, user_errors
from .speed import CUSTOM, LEVELS, PAIRS
from .starting import connect, mode_bar, start_row

ROPE = ("rope_scaling_factor", "rope_scaling_timestep_threshold")
ADVANCED: Mapping[str, tuple[str, ...]] = {
    "sampling": ("seed", "steps", "latent_window", *ROPE, CACHE, *parameters_of(CACHE)),
    "guidance": ("distilled_guidance", "real_cfg", "cfg_rescale", "negative_prompt"),
    "output": ("size", "decoding", OUTPUT, *parameters_of(OUTPUT)),
    "memory": ("preserved_memory_gb",),
}
"""The fields for those who know them, in groups."""
ONLY_WITH_GPU = "memory"
WHEN_DONE = ("sound", "notification")
ONLY_VIDEO = "only-video"
"""The style sheet hides what has this class while one picture is asked for."""

STAGE_LAYOUT = """<div class="stage">{bar}{job}{notices}
<div class="screen">{video}{preview}</div>{views}{stop}{comparison}{batch}{sections}{steps}{calibration}{recent}
<div class="only-heard" role="status">{announce}</div></div>"""
"""From top to bottom: what runs, its picture, what can be done, where in time it is, what was made before."""
LIVE = (
    "bar", "job", "notices", "video", "preview", "views", "stop", "comparison", "batch", "sections", "steps",
    "calibration", "recent", "announce",
)  # fmt: skip
LOOK_AGAIN = (
    "for (const what of ['ended', 'shelf']) document.addEventListener('framepack-' + what, () => trigger('click'));"
)
"""The plan is looked at anew when a job has ended, since its time is learnt from jobs; and what is said of LoRAs when
the shelf has changed."""


def build(page: Page) -> Form:
    """The form on the left, the running or last job on the right."""
    form, line = checkpoint_line.build(page)
    with gr.Row(elem_id="generate"):
        with gr.Column(elem_id="ask"):
            mode = mode_bar()
            framing, of_picture, examples = _pictures_and_words(page, form)
            plan, ruler, sweep, speed = _ask(page, form)
            hints = lora_section.build(page, form)
            pair, compare = _advanced(page, form)
            with gr.Column(elem_id="start-bar"):
                row = start_row(page, mode)
        with gr.Column(elem_id="stage"):
            stage = live(*LIVE, layout=STAGE_LAYOUT)
    commands = Commands(page, form)
    stage.click(user_errors(commands.carry_out), commands.asked, commands.outputs, **CLICKS)
    speed.input(
        _knobs_of,
        speed,
        [form[name] for name in LEVELS["balanced"]],
        js=f"level => {{ if (level === '{CUSTOM}') framepack.openAdvanced(); return level; }}",
        **PRIVATE,
        **NEWEST,
    )
    lora_section.connect(page, form, hints)
    checkpoint_line.follow(page, form, line, examples)
    connect(page, form, row, compare, sweep)
    one_frame_section.connect(page, form, of_picture, ruler)
    form.resets.connect()
    _keep_looking_ahead(page, form, sweep, [row.refused, framing, speed, plan, pair, hints, of_picture])
    return form


def _pictures_and_words(page: Page, form: Form) -> tuple[gr.HTML, gr.Radio, gr.HTML]:
    """What everybody chooses first; returns where the framing is, the mode of one picture, and the examples."""
    one_frame_section.place_kinds(form)
    form.place(PICTURE, elem_id="picture", elem_classes=ONLY_VIDEO)
    mode = one_frame_section.place_pictures(page, form)
    framing = gr.HTML(elem_id="framing")
    framing.change(None, None, None, js="() => framepack.frame()", **PRIVATE)
    form.place("prompt", elem_id="prompt")
    examples = gr.HTML(js_on_load=FORWARD_CLICKS, min_height=0)
    examples.click(_example, None, form["prompt"], **{**PRIVATE, "trigger_mode": "multiple"})
    return framing, mode, examples


def _ask(page: Page, form: Form) -> tuple[gr.HTML, gr.HTML, list[Component], gr.Radio]:
    """How much, where in time, and how fast; returns where the plan and the ruler are, the lists, and the level."""
    ruler, sweep = one_frame_section.place_time(page, form)
    with gr.Row(elem_id="length"):
        form.place("seconds", elem_id="seconds", elem_classes=ONLY_VIDEO, scale=1, min_width=140)
        plan = gr.HTML(elem_id="plan", scale=2, min_width=180, js_on_load=LOOK_AGAIN)
    speed = page.t(gr.Radio, "generate.speed", (*LEVELS, CUSTOM), value="balanced", elem_id="speed")
    return plan, ruler, sweep, speed


def _advanced(page: Page, form: Form) -> tuple[gr.Radio, gr.Button]:
    """All other fields; returns MagCache's pair, and the button that compares."""
    with page.t(gr.Accordion, "generate.advanced", open=False, elem_id="advanced"):
        for group, names in ADVANCED.items():
            shown = group != ONLY_WITH_GPU or machine.has_nvidia_gpu()
            with gr.Column(elem_classes="group", elem_id=f"group-{group}", visible=shown):
                page.t(gr.HTML, f"generate.group_{group}", html_template="<h2>${value}</h2>")
                with gr.Row(elem_classes="fields"):
                    for name in names:
                        if name not in OF_OPTION:
                            form.place_with_reset(name, elem_id=f"field-{name}")
                if CACHE in names:
                    pair = _caches(page, form)
                    compare = page.t(gr.Button, "generate.compare", size="sm", elem_id="compare")
                if OUTPUT in names:
                    _outputs(form)
        _when_done(page)
    return pair, compare


def _caches(page: Page, form: Form) -> gr.Radio:
    """The parameters of every step cache, what all have last; and what sets two of MagCache's at once."""
    for option in options_of(CACHE):
        with form.place_of(CACHE, option):
            if option == "magcache":
                pair = page.t(gr.Radio, "generate.magcache_pair", tuple(PAIRS), value=None, elem_id="magcache-pair")
            names = [name for name, of in parameters_of(CACHE).items() if of == option]
            for name in sorted(names, key=lambda name: name.endswith("_forecast")):
                form.place_with_reset(name, elem_id=f"field-{name}")
    sets = [form["magcache_threshold"], form["magcache_k"]]
    pair.input(lambda chosen: list(PAIRS[chosen]), pair, sets, **PRIVATE, **NEWEST)
    return pair


def _outputs(form: Form) -> None:
    """The parameters of every output."""
    for option in options_of(OUTPUT):
        with form.place_of(OUTPUT, option):
            for name, of in parameters_of(OUTPUT).items():
                if of == option:
                    form.place_with_reset(name, elem_id=f"field-{name}")


def _when_done(page: Page) -> None:
    """How this browser tells that a video is done."""
    wishes = page.t(gr.CheckboxGroup, "generate.when_done", WHEN_DONE, value=[], elem_id="when-done")
    wishes.input(None, wishes, None, js="wishes => framepack.whenDone(wishes)", **PRIVATE, **NEWEST)
    page.opened(
        lambda kept: [wish for wish in WHEN_DONE if wish in kept.split()],
        gr.Textbox(visible="hidden"),
        wishes,
        js="() => framepack.whenDoneIs()",
    )


def _example(event: gr.EventData) -> str:
    return Act.of(event).value


def _knobs_of(level: str) -> list[Any]:
    """Custom sets nothing; neither does a level set what it does not name."""
    knobs = LEVELS.get(level, {})
    return [knobs.get(name, gr.skip()) for name in LEVELS["balanced"]]


def _keep_looking_ahead(page: Page, form: Form, sweep: list[Component], shown: list[Any]) -> None:
    """After every change, when a job has ended, and after a change of language, which puts the plain words back.

    One level sets three fields at once, and the answers to three events may come in any order. So all changes settle
    in the browser first and lead to one event, of which the last wins.
    """
    settled = gr.Number(0, visible="hidden")
    asked = [*changes([page.spoken, form.checkpoint, *form.components, *sweep]), shown[3].click]
    gr.on(asked, None, None, settled, js="() => framepack.settled()", **PRIVATE)
    settled.change(
        lambda language, now, *lists: _looked_ahead(form, page.context, language, now, lists),
        [page.language, form.now, *sweep],
        [*shown, *(form[name] for name in (*IDLE, EMBEDDING)), form.resets.told],
        js="(language, now, ...lists) => [language, framepack.lookAhead(), ...lists]",
        trigger_mode="always_last",
        **PRIVATE,
    )


def _looked_ahead(form: Form, context: AppContext, language: str, now: Any, lists: Sequence[Any]) -> list[Any]:
    chosen, *values = now_shown(now, form)
    return look_ahead(form, context, language, [*values, *lists], chosen)
