"""Choices of the form with parameters of their own: of all options only the chosen one's parameters are in sight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ..request import Recipe
from ..request.fields import fields

CACHE, OUTPUT, KIND = "step_cache", "output", "kind"
CHOICES = (CACHE, OUTPUT, KIND)
OF_OPTION: Mapping[str, tuple[str, str]] = {
    name: (field.decided_by, field.option.name)
    for name, field in fields(Recipe).items()
    if field.decided_by in CHOICES and field.option
}
"""Parameter -> the choice and the option that it belongs to."""


def parameters_of(choice: str) -> dict[str, str]:
    """Parameter -> option, of one choice."""
    return {name: option for name, (of, option) in OF_OPTION.items() if of == choice}


def options_of(choice: str) -> tuple[str, ...]:
    """Those that have parameters."""
    return tuple(dict.fromkeys(parameters_of(choice).values()))


def out_of_sight(values: Mapping[str, Any]) -> set[str]:
    """The parameters of options that are not chosen."""
    return {name for name, (choice, option) in OF_OPTION.items() if values[choice] != option}


class Places:
    """Of every option the place of its parameters, by choice and option."""

    def __init__(self) -> None:
        self.columns: dict[tuple[str, str], gr.Column] = {}

    def place(self, choice: str, option: str) -> gr.Column:
        """The place of an option's parameters, to be opened and filled."""
        made = gr.Column(elem_classes=["fields", "of-option"], elem_id=f"of-{option}")
        self.columns[choice, option] = made
        return made


def style() -> str:
    """The style sheet that leaves in sight what belongs to the chosen options."""
    return "\n".join(
        f'#generate:not(:has(#field-{choice} [value="{option}"]:checked)) #of-{option} {{ display: none !important; }}'
        for choice, option in dict.fromkeys(OF_OPTION.values())
    )
