"""What is wrong with the form, in the page's language, as a message to the script that shows it at the fields.

Only the reason why a file cannot be read or decoded stays as the system or a library says it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import FramePackError, InvalidRequest, Problem, UnusablePicture
from ..request.fields import PICTURE, PICTURES
from ..words import Message, Texts
from .phrases import field_value

REFUSED = (InvalidRequest, UnusablePicture)
"""The errors that are the fault of one field of the form."""


def insisting(problems: Iterable[Problem], texts: Texts) -> str:
    """The message after a refused command: the first field is brought into sight, even when it said so before."""
    fields = by_field(problems, texts)
    return json.dumps({"fields": fields, "insist": secrets.token_hex(4), "language": texts.language})


def quiet(problems: Iterable[Problem], has_picture: bool, texts: Texts) -> str:
    """The message while somebody fills in the form. A picture that is not chosen yet is nothing wrong."""
    return json.dumps({"fields": by_field(problems, texts), "picture": has_picture, "language": texts.language})


def of_training(problems: Iterable[Problem], texts: Texts) -> str:
    """The message after a wish for a training: its fields have names of their own on the page."""
    told = {f"train-{field}": words for field, words in by_field(problems, texts).items()}
    return json.dumps({"fields": told, "insist": secrets.token_hex(4), "language": texts.language, "form": "train"})


def by_field(problems: Iterable[Problem], texts: Texts) -> Mapping[str, str]:
    """What is wrong with each field, in words that name what is allowed."""
    return {problem.field: _words(problem, texts) for problem in problems}


def in_words(error: FramePackError, texts: Texts) -> str:
    """What an error says where there is no form beside it: of a request, each field by its name; what the page has no
    words for, in English."""
    if isinstance(error, REFUSED) and _has_words(error):
        return " ".join(f"{_label(field, texts)}: {words}" for field, words in by_field(error.problems, texts).items())
    return texts.said(error.said)


def of_a_value(error: InvalidRequest, texts: Texts) -> str:
    """Why a value is none for any checkpoint, to stand beside it and the name of its field. In English where the page
    has no words for it, and of a choice, since its words for that speak of a checkpoint."""
    if _has_words(error) and all(problem.kind != "choice" for problem in error.problems):
        return " ".join(by_field(error.problems, texts).values())
    return texts.said(error.said)


def _has_words(error: InvalidRequest | UnusablePicture) -> bool:
    return bool(error.problems) and all(problem.kind != "other" for problem in error.problems)


def _label(field: str, texts: Texts) -> str:
    key = f"generate.{field}"
    return texts(key) if key in texts else field


def _words(problem: Problem, texts: Texts) -> str:
    if problem.kind == "said":
        return texts.said(problem.limits["reason"])
    own = f"refusal.{PICTURE if problem.field == PICTURES else problem.field}_{problem.kind}"
    key = own if own in texts else f"refusal.{problem.kind}"
    return texts(key, **{name: _limit(problem.field, name, value, texts) for name, value in problem.limits.items()})


def _limit(field: str, name: str, value: Any, texts: Texts) -> str:
    if isinstance(value, Message):
        return texts.said(value)
    return ", ".join(field_value(field, one, texts) for one in (value if isinstance(value, tuple) else (value,)))
