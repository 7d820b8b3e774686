"""LoRAs on the Generate tab: what is chosen, what is to know of it, and below that the shelf to choose from.

What is chosen is shown by the page's script (shelf.js), from the form's hidden component and into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import gradio as gr

from ..lora.label import Label
from ..lora.said import Said
from ..lora.watch import Meant
from ..request import Recipe
from ..request.fields import fields as flat_fields
from ..words import Message, Texts
from .app_context import AppContext, kinds_of
from .controls import CONTROL_INDEX, ONE_FRAME
from .form import Form, changes
from .form_values import is_allowed
from .loras import LORAS, Chosen, label_of
from .options import KIND
from .page import FORWARD_CLICKS, PRIVATE, Act, Page, live
from .phrases import number, say, short

MODE = "lora_mode"
CHOSEN = "<ul data-chosen></ul>"
CHANGED = "document.addEventListener('framepack-loras', () => trigger('click'));"
"""The script has changed what is chosen."""
TAKEN = ("steps", "distilled_guidance")
"""The fields that a file may say what they should be."""
SWITCHES: Mapping[str, str] = {"fp_1f_no_post": "post", "fp_1f_no_2x": "history_2x", "fp_1f_no_4x": "history_4x"}
"""What a file says to be off -> the field that says it to be on."""
OF_ONE_FRAME = (
    KIND, f"{ONE_FRAME}_target_index", CONTROL_INDEX, *(f"{ONE_FRAME}_{field}" for field in SWITCHES.values()),
    f"{ONE_FRAME}_embedding", "latent_window",
)  # fmt: skip
"""Those that a file says where it was trained to make one picture."""
EVERY_TIME: Mapping[str, Any] = {**PRIVATE, "trigger_mode": "multiple"}


def build(page: Page, form: Form) -> gr.HTML:
    """The section; returns where it stands what is to know of the chosen ones."""
    with gr.Column(elem_id="loras-place"):
        with gr.Column(elem_id=LORAS):
            chosen = gr.HTML(CHOSEN, js_on_load=CHANGED, min_height=0)
        hints = gr.HTML(elem_id="lora-hints", js_on_load=FORWARD_CLICKS, min_height=0)
        kept = form.place(LORAS, visible="hidden")
    with page.t(gr.Accordion, "generate.lora_shelf", open=False, elem_id="lora-shelf"):
        find = page.t(gr.Textbox, "generate.lora_find", max_lines=1, elem_id="lora-find")
        live("shelf", elem_id="lora-list")
        form.place_with_reset(MODE, elem_id=f"field-{MODE}")
    chosen.click(None, None, kept, js="() => framepack.chosenLoras()", **EVERY_TIME)
    gr.on(changes([kept]), None, kept, None, js="text => framepack.loras(text)", **EVERY_TIME)
    find.change(None, find, None, js="lora => framepack.wish({lora})", **EVERY_TIME)
    told = [form.checkpoint.change, page.spoken.change]
    gr.on(told, None, form.checkpoint, None, js="model => framepack.wish({model})", **EVERY_TIME)
    return hints


def connect(page: Page, form: Form, hints: gr.HTML) -> None:
    """What a click on a hint does, once all fields are placed."""

    def take(prompt: str, event: gr.EventData) -> list[Any]:
        return taken(page.context, prompt, event)

    hints.click(take, form["prompt"], [form[name] for name in ("prompt", *TAKEN, *OF_ONE_FRAME)], **EVERY_TIME)


def taken(context: AppContext, prompt: str, event: gr.EventData) -> list[Any]:
    """For prompt, TAKEN and OF_ONE_FRAME: what a click on a hint sets."""
    act = Act.of(event)
    file = context.loras.named(act.value)
    sets = _sets(act.name, prompt, file.label.said) if file and file.label else {}
    return [sets.get(name, gr.skip()) for name in ("prompt", *TAKEN, *OF_ONE_FRAME)]


def _sets(act: str, prompt: str, said: Said) -> dict[str, Any]:
    """The fields that a click sets."""
    match act:
        case "lora_words":
            return {"prompt": ", ".join(filter(None, (prompt.strip(), *said.trigger_words)))}
        case "lora_one_frame":
            return places_of(said)
    return usable_wishes(said)


def usable_wishes(said: Said) -> dict[str, Any]:
    """What a file says of fields, where a request takes it."""
    whole = {name for name, field in flat_fields(Recipe).items() if field.info.annotation is int}
    told = {name: int(value) if name in whole and value.is_integer() else value for name, value in said.wishes.items()}
    return {name: value for name, value in told.items() if is_allowed(name, value)}


def places_of(said: Said) -> dict[str, Any]:
    """Where in time a file was trained to have target and controls, as fields; nothing where it says none of it."""
    clean = said.one_frame.get("fp_1f_clean_indices")
    off = {field: said.one_frame.get(key) for key, field in SWITCHES.items()}
    indices = clean if isinstance(clean, list) else str(clean if clean is not None else "").split(";")
    told = {
        f"{ONE_FRAME}_target_index": said.one_frame.get("fp_1f_target_index"),
        CONTROL_INDEX: ";".join(str(index).strip() for index in indices),
        **{f"{ONE_FRAME}_{field}": not told for field, told in off.items() if isinstance(told, bool)},
        f"{ONE_FRAME}_embedding": said.one_frame.get("fp_1f_image_embedding_source"),
        "latent_window": said.one_frame.get("fp_latent_window_size"),
    }
    found = {name: value for name, value in told.items() if value is not None and is_allowed(name, value)}
    return {KIND: ONE_FRAME, **found} if found else {}


def hints_html(fields: Mapping[str, Any], context: AppContext, texts: Texts, chosen: str | None = None) -> str:
    """What is to know of the chosen LoRAs, and can be done at one click. What files say is a stranger's text."""
    checkpoint = context.shown(chosen)
    name = checkpoint.name if checkpoint else ""
    return "".join(hint for lora in fields.get(LORAS, ()) for hint in _hints(lora, fields, context, name, texts))


def _hints(
    lora: Chosen, fields: Mapping[str, Any], context: AppContext, checkpoint: str, texts: Texts
) -> Iterator[str]:
    watch, name = context.loras, lora["name"]
    meant = watch.meant(name, lora["sha256"])
    if meant is None:
        yield _line(say(texts, "shelf.looking", name=name))
    if isinstance(meant, Meant) and meant.name != name:
        yield _line(escape(texts.said(Message("lora.moved", name=name, found=meant.name))))
    label = label_of(lora, watch)
    if label is None:
        return
    if label.foreign:
        yield _line(say(texts, "shelf.foreign", name=name, model=label.base), "warns")
    elif told := partly(label, checkpoint, texts):
        yield _line(f"{escape(name)}: {told}")
    yield from _of_said(meant.name if isinstance(meant, Meant) else name, label.said, fields, texts)
    makes = ONE_FRAME in kinds_of(context.shown(checkpoint))
    yield from _of_places(meant.name if isinstance(meant, Meant) else name, label.said, fields, texts, makes)


def _of_said(name: str, said: Said, fields: Mapping[str, Any], texts: Texts) -> Iterator[str]:
    """Trigger words that the prompt lacks, settings that the form has otherwise, and what it has no place for."""
    words = ", ".join(said.trigger_words)
    if words and not all(word.casefold() in str(fields["prompt"]).casefold() for word in said.trigger_words):
        told = say(texts, "shelf.trigger_words", name=name, words=short(words))
        yield _line(told, act=_act("lora_words", name, texts("shelf.add_words")))
    wishes = {field: value for field, value in usable_wishes(said).items() if fields[field] != value}
    if wishes:
        told = say(texts, "shelf.settings_differ", name=name, settings=_settings(wishes, texts))
        yield _line(told, "warns", _act("lora_settings", name, texts("shelf.use_settings")))


def _of_places(name: str, said: Said, fields: Mapping[str, Any], texts: Texts, makes: bool) -> Iterator[str]:
    """Where in time a file was trained to have its pictures, unless the form has them there. ``makes``: whether the
    checkpoint makes one picture at all."""
    places = places_of(said)
    if not said.one_frame or (places and all(fields.get(field) == value for field, value in places.items())):
        return
    indices = ", ".join(f"{key.removeprefix('fp_1f_')} {value}" for key, value in said.one_frame.items())
    act = _act("lora_one_frame", name, texts("shelf.use_settings")) if places and makes else ""
    yield _line(say(texts, "shelf.one_frame", name=name, indices=short(indices)), "warns" if act else "", act)


def _settings(wishes: Mapping[str, Any], texts: Texts) -> str:
    return ", ".join(f"{texts(f'generate.{field}')} {number(value)}" for field, value in wishes.items())


def partly(label: Label, checkpoint: str, texts: Texts) -> str:
    """How much of a file has an effect, where that is not all; HTML."""
    fit = label.fits.get(checkpoint)
    if fit is None or fit.problem or fit.matched == label.keys:
        return ""
    return say(texts, "shelf.partly", matched=fit.matched, all=label.keys)


def unfit(label: Label, checkpoint: str) -> Message | None:
    """Why a file cannot be used with a checkpoint."""
    fit = label.fits.get(checkpoint)
    return fit.problem if fit else None


def _line(words: str, kind: str = "", act: str = "") -> str:
    return f'<p class="l-hint {kind}"><span>{words}</span>{act}</p>'


def _act(act: str, name: str, words: str) -> str:
    return (
        f'<button type="button" class="q-button" data-act="{act}" data-value="{escape(name)}">{escape(words)}</button>'
    )
