"""Where a setting may be said: flags, the environment, the settings file; and by default."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidSetting
from ..names import quoted
from .groups import ROOT
from .knob import Knob

SETTINGS_FILE = ROOT / "settings.json"


@dataclass(frozen=True)
class Found:
    """What a knob was set to: its text, the value of that, and its origin."""

    text: str
    value: Any
    origin: str


@dataclass(frozen=True)
class Sources:
    """A flag beats the environment, the environment beats ``stored``, the settings file, and that beats the default."""

    flags: Mapping[str, Any]
    environment: Mapping[str, str]
    stored: Mapping[str, str]

    def find(self, knob: Knob) -> Found:
        """What a knob is set to; its origin is flag, environment, settings file or default.

        Raises:
            InvalidSetting: naming the flag, variable or line, its value and what is allowed.
        """
        text, origin, place = self._first_given(knob)
        try:
            return Found(text, knob.parse(text), origin)
        except ValueError as error:
            value = "" if knob.secret else f"={quoted(text)}"
            raise InvalidSetting(f"{place}{value}: {error}") from None

    def _first_given(self, knob: Knob) -> tuple[str, str, str]:
        if self.flags.get(knob.name) is not None:
            return str(self.flags[knob.name]), "flag", knob.flag
        for variable in (knob.newer_variable, knob.variable):
            if self.environment.get(variable):
                return self.environment[variable], "environment", variable
        if knob.name in self.stored:
            return self.stored[knob.name], "settings file", f"{SETTINGS_FILE}: {knob.name}"
        return knob.default, "default", knob.name


def read(file: Path, known: Collection[str]) -> Mapping[str, str]:
    """What the settings file says, by name; null says nothing, as if the line were not there. Raises InvalidSetting."""
    if not file.is_file():
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidSetting(f"{file} cannot be read as JSON: {error}. Mend it or delete it.") from None
    if not isinstance(stored, dict):
        raise InvalidSetting(f"{file} must hold a JSON object of settings")
    unknown = sorted(set(stored) - set(known))
    if unknown:
        raise InvalidSetting(f"{file}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    return {name: _as_text(value, f"{file}: {name}") for name, value in stored.items() if value is not None}


def _as_text(value: Any, place: str) -> str:
    """A value of the settings file, as a flag would say it. Raises InvalidSetting for others, without showing them."""
    if not isinstance(value, str | int | float):
        raise InvalidSetting(f"{place}: a list or an object is not allowed; give a text, a number, true, false or null")
    return str(value)
