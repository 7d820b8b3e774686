"""Choices of which exactly one is made, each with parameters of its own: a class per option, a table per choice.

A field of a choice holds an instance of one of the table's classes, and stands in JSON as an object with the option's
``name`` and its parameters. So two options cannot be asked for at once, and no parameter can be given to an option
that does not have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)
KNOWN_ERRORS = frozenset(get_args(core_schema.ErrorType))
NONE = "off"
"""The name of choosing no option, where that is possible."""


class Option(BaseModel):
    """One option of a choice. Its fields are its parameters."""

    model_config = STRICT

    name: ClassVar[str]


@dataclass(frozen=True)
class OneOf:
    """For ``Annotated``: the field holds an option of ``table``, or None where ``optional``.

    An error's location names the option behind the field: ("step_cache", "teacache", "threshold").
    """

    table: Mapping[str, type[Option]]
    optional: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(as_data)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What can be chosen."""
        return ((NONE,) if self.optional else ()) + tuple(self.table)

    def read(self, value: Any) -> Option | None:
        """An option from its data; one of the table's stays as it is."""
        if value is None and self.optional:
            return None
        if isinstance(value, Option) and self.table.get(value.name) is type(value):
            return value
        name = value.get("name") if isinstance(value, Mapping) else None
        if not isinstance(name, str) or name not in self.table:
            raise PydanticCustomError("choice", "one of its options", {"choices": self.names})
        return _with_location(name, self.table[name], {key: value[key] for key in value if key != "name"})


def as_data(option: Option | None) -> dict[str, Any] | None:
    """The inverse of ``OneOf.read``."""
    return None if option is None else {"name": option.name, **option.model_dump()}


def _with_location(name: str, made: type[Option], parameters: Mapping[str, Any]) -> Option:
    try:
        return made.model_validate(parameters)
    except ValidationError as error:
        lines = [
            InitErrorDetails(
                type=_type_of(line), loc=(name, *line["loc"]), input=line["input"], ctx=line.get("ctx", {})
            )
            for line in error.errors()
        ]
        raise ValidationError.from_exception_data(name, lines) from None


def _type_of(line: ErrorDetails) -> str | PydanticCustomError:
    """A type that an option has made up has to be made again, with its words."""
    if line["type"] in KNOWN_ERRORS:
        return line["type"]
    return PydanticCustomError(line["type"], "{words}", {**line.get("ctx", {}), "words": line["msg"]})
