"""The tab of presets: keep what is in the form under a name, and bring it back."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import FramePackError, UnusableInput
from ..media.metadata import read_text
from ..presets import Preset, about_file, file_name
from ..request.fields import PICTURE, PICTURES
from ..words import Message, Texts
from .app_context import AppContext
from .form import NAMES, Form
from .loras import LORAS
from .page import CLICKS, COMMAND, PRIVATE, Act, Page, inform, user_errors
from .phrases import field_value

PROMPT = ("prompt", "negative_prompt")
PARTS: Mapping[str, tuple[str, ...]] = {
    "settings": tuple(name for name in NAMES if name not in (PICTURE, PICTURES, "seed", LORAS, *PROMPT)),
    "prompt": PROMPT,
    "loras": (LORAS,),
    "seed": ("seed",),
}
"""What a preset may keep -> the fields of it."""

LONGEST_VALUE = 200

FORWARD = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-act]');
  if (!button || !element.contains(button) || !framepack.agreed(button)) return;
  const {act, value, ask} = button.dataset;
  const answer = ask ? prompt(ask, value) : '';
  if (answer !== null) trigger('click', {act, value: JSON.stringify([value, answer])});
});
"""


def build(page: Page, form: Form) -> None:
    """The list on the left; saving and importing on the right."""
    page.t(gr.Markdown, "presets.intro")
    with gr.Row():
        with gr.Column(scale=7):
            shown = gr.HTML("", js_on_load=FORWARD, elem_id="presets-list")
        with gr.Column(scale=4, min_width=300):
            page.t(gr.HTML, "presets.save_heading", html_template='<h2 class="r-title">${value}</h2>')
            with gr.Group():
                name = page.t(gr.Textbox, "presets.name", max_lines=1, elem_id="preset-name")
                parts = page.t(gr.CheckboxGroup, "presets.parts", tuple(PARTS), value=["settings"])
                replace = page.t(gr.Checkbox, "presets.replace", value=False)
            save = page.t(gr.Button, "presets.save", variant="primary", elem_id="preset-save")
            files = page.t(
                gr.File, "presets.import", type="filepath", file_count="multiple", elem_id="preset-import", height=130
            )
    presets = Presets(page.context, form)
    saving = [name, parts, replace, page.language, *form.components]
    save.click(user_errors(presets.save), saving, [shown, replace], **COMMAND)
    name.submit(user_errors(presets.save), saving, [shown, replace], **COMMAND)
    files.upload(user_errors(presets.take_in), [files, page.language], [shown, files], **COMMAND)
    asked = [page.language, form.checkpoint]
    shown.click(user_errors(presets.carry_out), asked, [shown, *form.components, page.tabs], **CLICKS)
    for changed in (page.tabs.select, page.spoken.change):
        changed(presets.listed, page.language, shown, **PRIVATE)


class Presets:
    """What the tab does."""

    def __init__(self, context: AppContext, form: Form) -> None:
        self._store, self._form = context.presets, form
        self._acts: Mapping[str, Callable[[str, str, Texts], None]] = {
            "startup": lambda name, answer, texts: self._store.choose_startup(name),
            "no_startup": lambda name, answer, texts: self._store.choose_startup(None),
            "rename": self._rename,
            "delete": self._delete,
        }

    def listed(self, language: str) -> str:
        """All presets as HTML."""
        startup = self._store.startup()
        return list_html(self._store.presets(), startup, self._store.problems(), Texts(language))

    def save(
        self, name: str, parts: Sequence[str], replace: bool, language: str, *values: Any
    ) -> tuple[str, dict[str, Any]]:
        """Keep the form under ``name``. Raises UnusableInput, OutputFailed."""
        texts = Texts(language)
        kept = {field for part in parts for field in PARTS.get(part, ())}
        if not kept:
            raise UnusableInput(Message("presets.no_parts"))
        shown = self._form.fields_of(values)
        shown = self._form.settled(shown) if LORAS in kept else shown
        fields = {field: value for field, value in shown.items() if field in kept}
        preset = self._store.save(name, fields, replace)
        inform(texts("presets.saved", name=preset.name))
        return self.listed(language), gr.update(value=False)

    def take_in(self, paths: Sequence[str] | None, language: str) -> tuple[str, None]:
        """Import each file; one that is refused stops none of the others, and nothing of it is kept."""
        texts, names, refused = Texts(language), [], []
        for path in paths or ():
            try:
                names.append(self._store.import_text(read_text(Path(path))).name)
            except FramePackError as error:
                refused.append(texts.said(about_file(Path(path), error)))
        if names:
            inform(texts("presets.imported", names=", ".join(names)))
        _warn(refused)
        return self.listed(language), None

    def carry_out(self, language: str, chosen: str | None, event: gr.EventData) -> list[Any]:
        """One click on the list. Raises UnusableInput, OutputFailed."""
        act, texts = Act.of(event), Texts(language)
        name, answer = _name_and_answer(act.value)
        if act.name == "load":
            return [self.listed(language), *self._load(name, chosen, texts)]
        if act.name in self._acts:
            self._acts[act.name](name, answer, texts)
        return [self.listed(language), *(gr.skip() for _ in (*NAMES, "tabs"))]

    def _load(self, name: str, chosen: str | None, texts: Texts) -> list[Any]:
        preset = self._store.load(name)
        inform(texts("presets.loaded", name=preset.name))
        offered = self._form.offered(preset.values, chosen)
        values = {name: value for name, value in preset.values.items() if name not in offered}
        _warn([texts("presets.not_offered", field=texts(f"generate.{field}"), value=values[field]) for field in values])
        return [*self._form.values_of(preset.values, chosen), gr.Tabs(selected="generate")]

    def _rename(self, name: str, answer: str, texts: Texts) -> None:
        self._store.rename(name, answer)

    def _delete(self, name: str, answer: str, texts: Texts) -> None:
        self._store.remove(name)
        inform(texts("presets.deleted", name=name))


def _warn(reasons: Sequence[str]) -> None:
    """All in one message, since the page shows the newest alone."""
    if reasons:
        gr.Warning("<br>".join(map(escape, reasons)))


def list_html(presets: Sequence[Preset], startup: Preset | None, problems: Sequence[Message], texts: Texts) -> str:
    """The presets with what they hold and what can be done. Names may come from strangers and are escaped."""
    cards = "".join(_card(preset, startup is not None and preset.name == startup.name, texts) for preset in presets)
    listed = f'<ul class="p-list">{cards}</ul>' if cards else f'<p class="q-empty">{escape(texts("presets.empty"))}</p>'
    told = "".join(f"<li>{escape(texts.said(problem))}</li>" for problem in problems)
    bad = f'<h3 class="r-head">{escape(texts("presets.problems"))}</h3><ul class="r-list">{told}</ul>' if told else ""
    return f'<h2 class="r-title">{escape(texts("presets.list"))}</h2>{listed}{bad}'


def _card(preset: Preset, at_start: bool, texts: Texts) -> str:
    star = f'<span class="q-state">{escape(texts("presets.startup"))}</span>' if at_start else ""
    held = "".join(
        f"<div><dt>{escape(texts(f'generate.{name}'))}</dt><dd>{escape(_short(name, value, texts))}</dd></div>"
        for name, value in preset.values.items()
        if name in NAMES
    )
    acts = "".join(
        (
            _button("load", preset, texts),
            _button("no_startup", preset, texts) if at_start else _button("startup", preset, texts, "make_startup"),
            _button("rename", preset, texts, ask=texts("presets.rename_ask", name=preset.name)),
            _export(preset, texts),
            _button("delete", preset, texts, confirm=texts("presets.delete_confirm", name=preset.name)),
        )
    )
    name = f'<p class="p-name"><bdi>{escape(preset.name)}</bdi>{star}</p>'
    return f'<li class="p-card">{name}<dl class="p-values">{held}</dl><div class="q-acts">{acts}</div></li>'


def _button(act: str, preset: Preset, texts: Texts, key: str = "", **data: str) -> str:
    extra = "".join(f' data-{name}="{escape(value)}"' for name, value in data.items())
    extra += ' class="q-button q-danger"' if act == "delete" else ' class="q-button"'
    words = escape(texts(f"presets.{key or act}"))
    return f'<button type="button" data-act="{act}" data-value="{escape(preset.name)}"{extra}>{words}</button>'


def _short(name: str, value: Any, texts: Texts) -> str:
    words = field_value(name, value, texts)
    return words if len(words) <= LONGEST_VALUE else f"{words[:LONGEST_VALUE]}…"


def _export(preset: Preset, texts: Texts) -> str:
    """A link that holds the file itself."""
    content = b64encode(preset.to_json().encode()).decode()
    return (
        f'<a class="q-button" download="{file_name(preset.name)}" href="data:application/json;base64,{content}">'
        f"{escape(texts('presets.export'))}</a>"
    )


def _name_and_answer(value: str) -> tuple[str, str]:
    """What the list's script sends: the name of the preset, and what was typed."""
    try:
        name, answer = json.loads(value)
    except (ValueError, TypeError, RecursionError):
        return "", ""
    return str(name), str(answer)
