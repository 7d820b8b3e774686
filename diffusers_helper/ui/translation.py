"""Components that can change their language: made through a translator, which remembers their keys.

A component made with the key ``generate.seed`` takes its label from that text, and its info and placeholder from
``generate.seed_info`` and ``generate.seed_placeholder`` where they exist. A choice ``f1`` of ``generate.kind`` shows as
``generate.kind_choice_f1``, or as it is where there is no such text. Buttons, Markdown and HTML show the text itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import gradio as gr
from gradio.blocks import Block

from ..words import Texts

AnyBlock = TypeVar("AnyBlock", bound=Block)
Choices: TypeAlias = Sequence[str] | Callable[[], Sequence[str]] | None
"""What can be chosen; where that changes, a function that says what it is now."""


@dataclass(frozen=True)
class _Made:
    component: Block
    key: str
    choices: Choices


class Translator:
    """Makes components in one language; ``updates`` puts all of them into another."""

    def __init__(self, language: str = "en") -> None:
        self.texts = Texts(language)
        self._made: list[_Made] = []

    def __call__(self, make: Callable[..., AnyBlock], key: str, choices: Choices = None, **properties: Any) -> AnyBlock:
        component = make(**wording(make, key, choices, self.texts), **properties)
        self._made.append(_Made(component, key, choices))
        return component

    @property
    def components(self) -> list[Block]:
        """All that were made, in the order of ``updates``."""
        return [made.component for made in self._made]

    def updates(self, language: str) -> list[dict[str, Any]]:
        """What Gradio is told to show all components in ``language``; their values stay."""
        texts = Texts(language)
        return [gr.update(**wording(type(each.component), each.key, each.choices, texts)) for each in self._made]

    def opening(self, language: str) -> list[dict[str, Any]]:
        """The same for a page that shows all of them as they were made: it is told only what is another now."""
        is_other = Texts(language).language != self.texts.language
        updates = zip(self._made, self.updates(language), strict=True)
        return [update if is_other or callable(made.choices) else gr.skip() for made, update in updates]


def wording(make: Callable[..., Block], key: str, choices: Choices, texts: Texts) -> dict[str, Any]:
    """The properties of a component that are words."""
    shows_text = isinstance(make, type) and issubclass(make, (gr.Button, gr.Markdown, gr.HTML))
    words: dict[str, Any] = {"value" if shows_text else "label": texts(key)}
    words |= {part: texts(f"{key}_{part}") for part in ("info", "placeholder") if f"{key}_{part}" in texts}
    if choices is not None:
        words["choices"] = worded(key, choices() if callable(choices) else choices, texts)
    return words


def worded(key: str, choices: Sequence[str], texts: Texts) -> list[tuple[str, str]]:
    """Choices as Gradio takes them: each with what it shows."""
    names = {value: f"{key}_choice_{value}" for value in choices}
    return [(texts(name) if name in texts else value, value) for value, name in names.items()]
