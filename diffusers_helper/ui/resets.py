"""Below a field that has another value than its default: what that is, and the way back to it.

Both are shown by the page's script (resets.js). Gradio searches the whole page for each component that an event
writes, so one text tells the script of all fields, where each would need a button of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from ..words import Texts
from .form_values import shown_of
from .page import PRIVATE
from .phrases import number

WANTED = "document.addEventListener('framepack-reset', () => trigger('click'));"
"""The script is to bring a default back."""


class Resets:
    """The fields that can be set back.

    Attributes:
        told: hidden; what the script is told.
        fields: by name.
    """

    def __init__(self) -> None:
        self.told = gr.Textbox(visible="hidden")
        self.fields: dict[str, Component] = {}
        self._wanted = gr.HTML(js_on_load=WANTED, visible="hidden")

    def connect(self) -> None:
        """What the script shows and sets, once all fields are placed."""
        self.told.change(None, self.told, None, js="told => framepack.resets(told)", **PRIVATE)
        back = f"() => framepack.back({json.dumps([*self.fields])})"
        again: Mapping[str, Any] = {**PRIVATE, "trigger_mode": "multiple"}
        self._wanted.click(None, None, [*self.fields.values()], js=back, **again)

    def text(self, shown: Mapping[str, Any], defaults: Mapping[str, Any], texts: Texts) -> str:
        """For ``told``: of each field that shows something else its default, as it shows it and in words."""
        found = {name: shown_of(name, defaults[name]) for name in self.fields}
        differ = {name: value for name, value in found.items() if shown[name] != value}
        return json.dumps(
            {
                name: {"value": value, "words": texts("generate.default", value=in_words(name, value, texts))}
                for name, value in differ.items()
            }
        )


def in_words(name: str, shown: Any, texts: Texts) -> str:
    """What a component shows, as text."""
    if isinstance(shown, bool):
        return texts("generate.on" if shown else "generate.off")
    choice = f"generate.{name}_choice_{shown}"
    if choice in texts:
        return texts(choice)
    return number(shown) or texts("generate.default_empty")
