"""What is wrong with the form, in the page's language, as a message to the script that shows it at the fields."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InvalidRequest, Problem, UnusablePicture
from .texts import Texts
from .words import field_value

REFUSED = (InvalidRequest, UnusablePicture)
"""The errors that are the fault of one field of the form."""


def insisting(error: InvalidRequest | UnusablePicture, texts: Texts) -> str:
    """The message after a refused command: the first field is brought into sight, even when it said so before."""
    fields = {"picture": str(error)} if isinstance(error, UnusablePicture) else by_field(error.problems, texts)
    return json.dumps({"fields": fields, "insist": secrets.token_hex(4), "language": texts.language})


def quiet(problems: Iterable[Problem], has_picture: bool, texts: Texts, unusable: str = "") -> str:
    """The message while somebody fills in the form. A picture that is not chosen yet is nothing wrong; ``unusable``
    says what is wrong with the one that is."""
    fields = {**({"picture": unusable} if unusable else {}), **by_field(problems, texts)}
    return json.dumps({"fields": fields, "picture": has_picture, "language": texts.language})


def by_field(problems: Iterable[Problem], texts: Texts) -> Mapping[str, str]:
    """What is wrong with each field, in words that name what is allowed."""
    return {problem.field: _words(problem, texts) for problem in problems}


def _words(problem: Problem, texts: Texts) -> str:
    own = f"refusal.{problem.field}_{problem.kind}"
    key = own if own in texts else f"refusal.{problem.kind}"
    return texts(key, **{name: _limit(problem.field, value, texts) for name, value in problem.limits.items()})


def _limit(field: str, value: Any, texts: Texts) -> str:
    return ", ".join(field_value(field, one, texts) for one in (value if isinstance(value, tuple) else (value,)))
