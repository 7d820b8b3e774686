"""A JSON object out of a text from elsewhere, strictly as a dataclass has it; or what is wrong with it in words that a
sentence can go on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from .names import quoted

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def object_in(text: str) -> dict[str, Any]:
    """The object that is all of ``text``.

    Raises:
        ValueError: "is not JSON: ..." or "must be a JSON object, not ...".
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"must be a JSON object, not {type(found).__name__}")
    return found


def strict_reader(made: type[Any]) -> type[BaseModel]:
    """What the fields of a dataclass may hold: nothing else, and no other type."""
    hints = get_type_hints(made, include_extras=True)
    wanted: dict[str, Any] = {
        each.name: (hints[each.name], ... if each.default is MISSING else each.default) for each in fields(made)
    }
    return create_model(made.__name__, __config__=_STRICT, **wanted)


def explained(made: type[Any], error: ValidationError) -> Iterator[str]:
    """What is wrong with each field."""
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        match problem["type"]:
            case "missing":
                yield f"{field} is missing"
            case "extra_forbidden":
                known = ", ".join(each.name for each in fields(made))
                yield f"{field} is not a field of it; the fields are {known}"
            case _:
                yield f"{field}: {quoted(problem['input'])} is not allowed ({problem['msg']})"
