"""A knob: a field of a settings group that can be set by a flag, an environment variable or the settings file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..names import shown

_KNOB = "knob"


@dataclass(frozen=True)
class Knob:
    """How a field is set. ``parse`` turns its text into its value and raises ValueError saying what is allowed.

    The value of a ``secret`` one is never shown. ``newer_variable`` goes before ``variable``. One that is ``after``
    another group's is listed there.
    """

    name: str
    variable: str
    default: str
    parse: Callable[[str], Any]
    help: str
    secret: bool = False
    newer_variable: str = ""
    after: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def shown(self, value: Any) -> str:
        """The value as text for people."""
        if self.secret:
            return "set" if value else "not set"
        return "" if value is None else shown(",".join(value) if isinstance(value, tuple) else value)


def knob(
    variable: str,
    default: str,
    parse: Callable[[str], Any],
    help: str,
    *,
    secret: bool = False,
    newer_variable: str = "",
    after: str = "",
) -> Any:
    """Declares a field as a knob of the field's name; see ``Knob``."""
    nameless = Knob("", variable, default, parse, help, secret, newer_variable, after)
    return field(repr=not secret, metadata={_KNOB: nameless})


def knobs_of(group: type[Any]) -> tuple[Knob, ...]:
    """The knobs of a group, in the order of its fields."""
    return tuple(replace(each.metadata[_KNOB], name=each.name) for each in fields(group))
