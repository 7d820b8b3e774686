"""What is wrong with a request, field by field: in words and as data, from what pydantic found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..errors import InvalidRequest, Problem, ProblemKind
from ..names import quoted
from .fields import PICTURE, Field, choices, fields
from .parts import MOST_CHARACTERS

PATH = "path of the start picture"
Found = Mapping[str, Any]
"""One error of pydantic's."""


def refusal(errors: Sequence[Found], made: type[BaseModel], recipe: type[BaseModel]) -> InvalidRequest:
    """All errors of a request, or of a recipe, ``made``."""
    known, tables = fields(recipe), choices(recipe)
    named = [(_flat_name(error, tables), error) for error in errors]
    message = "\n".join(_explained(name, error, known, made) for name, error in named)
    return InvalidRequest(message, [_as_data(name, error, known) for name, error in named])


def _flat_name(error: Found, tables: Mapping[str, Any]) -> str:
    """The flat name of a place in a request; a path of names and numbers where it has none."""
    location: Sequence[str | int] = error["loc"]
    match location:
        case ("prompts", 0, "text"):
            return "prompt"
        case ("pictures", 0, "path"):
            return PICTURE
        case (str(missing),) if error["type"] == "missing" and missing.endswith(" picture"):
            return PICTURE if missing == "start picture" else "pictures"
        case (choice, _, parameter, *_) if choice in tables:
            return f"{location[1]}_{parameter}"
        case (choice, _) if choice in tables:
            return str(choice)
    return ".".join(map(str, location)) or "request"


def _as_data(name: str, error: Found, known: Mapping[str, Field]) -> Problem:
    kind, limits = _rule(known.get(name), error)
    return Problem(name, kind, None if kind == "missing" else _given(error), limits)


def _given(error: Found) -> Any:
    """Of a choice the name of the option that there is not."""
    given = error["input"]
    return given["name"] if error["type"] == "choice" and isinstance(given, Mapping) and "name" in given else given


def _rule(field: Field | None, error: Found) -> tuple[ProblemKind, Mapping[str, Any]]:
    """Which rule was broken, and its limits."""
    match error["type"]:
        case "missing":
            return "missing", {}
        case "choice":
            return "choice", {"choices": error["ctx"]["choices"]}
        case "ratios":
            return "ratios", {"place": error["ctx"]["place"], "given": error["ctx"]["given"]}
        case "said":
            return "said", {"reason": error["ctx"]["reason"]}
    limits = _bounds(field.info) if field else {}
    if field and len(limits) == 2:
        whole = field.info.annotation is int
        return "whole_number" if whole else "number", {"low": limits["ge"], "high": limits["le"]}
    if error["type"] == "string_too_long":
        return "too_long", {"most": MOST_CHARACTERS}
    return "other", {}


def _bounds(info: FieldInfo) -> dict[str, Any]:
    return {key: getattr(rule, key) for rule in info.metadata for key in ("ge", "le") if hasattr(rule, key)}


def _explained(name: str, error: Found, known: Mapping[str, Field], made: type[BaseModel]) -> str:
    match error["type"]:
        case "missing":
            return f"{name}: is missing; give {_needed(name, error['loc'])}"
        case "extra_forbidden":
            return f"{name}: is not a field of a request; the fields are {', '.join(_names(known, made))}"
        case "said":
            return f"{name}: {error['msg']}"
        case "choice":
            allowed = " or ".join(map(repr, error["ctx"]["choices"]))
        case _:
            allowed = PATH if name == PICTURE else _allowed(known.get(name), error)
    return f"{name}: {quoted(_given(error))} is not allowed; give {allowed}"


def _needed(name: str, location: Sequence[str | int]) -> str:
    return f"path of the {location[0]}" if str(location[0]).endswith(" picture") else name


def _names(known: Mapping[str, Field], made: type[BaseModel]) -> list[str]:
    """The flat names, with the picture's where the inputs belong to it."""
    return [*([PICTURE] if "pictures" in made.model_fields else []), *known]


def _allowed(field: Field | None, error: Found) -> str:
    """What a field takes, in words; by its bounds where it has them."""
    limits = _bounds(field.info) if field else {}
    if field and len(limits) == 2:
        number = "a whole number" if field.info.annotation is int else "a number"
        return f"{number} from {limits['ge']} to {limits['le']}"
    match error["type"]:
        case "string_too_long":
            return f"at most {error['ctx']['max_length']} characters"
        case "value_error" | "string_pattern_mismatch":
            return (field and field.info.description) or "another text"
        case "string_type" | "is_instance_of":
            return "a text"
        case "string_unicode":
            return "a text in UTF-8"
        case "bool_type":
            return "true or false"
    return str(error["msg"]).removeprefix("Input should be ")
