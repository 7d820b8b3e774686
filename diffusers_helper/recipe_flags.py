"""A recipe's flat values as flags of commands, and what was given of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from .request import Recipe
from .request.fields import ALIASES, PICTURE, QUALITY_MODE, Field, fields

RENAMED = {PICTURE: "image", "mp4_crf": "crf"}
"""Flags that are called otherwise than their value."""
DECIDED_ELSEWHERE = {
    "kind": " (default: what the checkpoint does best)",
    "seconds": " (default: what the checkpoint asks for, else {default})",
    "output": " (default: what the suffix of --out says, else {default})",
}


def add_field(group: argparse._ArgumentGroup, field: Field) -> None:
    """The flag of a flat value. Absent means the recipe's own default."""
    flag, text = "--" + RENAMED.get(field.name, field.name).replace("_", "-"), field.info.description
    if field.info.annotation is bool:
        group.add_argument(flag, dest=field.name, action=argparse.BooleanOptionalAction, help=text)
        return
    default = "" if field.default in (None, "") else f" (default {field.default})"
    if field.name in DECIDED_ELSEWHERE:
        default = DECIDED_ELSEWHERE[field.name].format(default=field.default)
    group.add_argument(
        flag,
        dest=field.name,
        type=_type_of(field),
        choices=field.names,
        help=f"{text}{default}",
    )


def _type_of(field: Field) -> Callable[[str], int | float | str]:
    numbers: Mapping[Any, Callable[[str], int | float]] = {int: int, float: float}
    return str if field.names else numbers.get(field.info.annotation, str)


def given_fields(options: argparse.Namespace) -> dict[str, Any]:
    """What was given of a request, by the names of its values."""
    return {name: value for name in request_names() if (value := getattr(options, name, None)) is not None}


def request_names() -> list[str]:
    """What the command line calls the parts of a request."""
    return [PICTURE, *fields(Recipe), *ALIASES, QUALITY_MODE]
