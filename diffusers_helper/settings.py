"""The settings of this installation: every knob once, with its flag, environment variable, default and help.

A flag beats the environment, the environment beats ``settings.json``, that beats the default. ``Settings.origin``
remembers where each value came from, so that it can be shown.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import faults
from .errors import InvalidSetting

ROOT = Path(__file__).resolve().parent.parent
SETTINGS_FILE = ROOT / "settings.json"


def _truth(text: str) -> bool:
    words = {"1": True, "true": True, "0": False, "false": False}
    if text.lower() not in words:
        raise ValueError("allowed are 1, true, 0 and false")
    return words[text.lower()]


def _level(text: str) -> str:
    levels = ("debug", "info", "warning", "error")
    if text.lower() not in levels:
        raise ValueError(f"allowed are {', '.join(levels)}")
    return text.lower()


def _folder(text: str) -> Path:
    if not text.strip() or "\0" in text:
        raise ValueError("give the path of a folder")
    return Path(text).expanduser()


@dataclass(frozen=True)
class Knob:
    """One setting. ``parse`` turns its text into its value and raises ValueError saying what is allowed."""

    name: str
    variable: str
    default: str
    parse: Callable[[str], Any]
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


KNOBS: tuple[Knob, ...] = (
    Knob("checkpoint", "FRAMEPACK_CHECKPOINT", "pocket", str, "name or folder of the checkpoint"),
    Knob("output_dir", "FRAMEPACK_OUTPUT_DIR", str(ROOT / "outputs"), _folder, "where videos go, in a folder per day"),
    Knob("models_dir", "HF_HOME", str(ROOT / "hf_download"), _folder, "where downloaded checkpoints are kept"),
    Knob("offline", "HF_HUB_OFFLINE", "0", _truth, "never touch the network"),
    Knob("log_level", "FRAMEPACK_LOG_LEVEL", "warning", _level, "debug, info, warning or error"),
)


@dataclass(frozen=True)
class Settings:
    """The effective values. ``origin`` maps a name to 'flag', 'environment', 'settings file' or 'default'."""

    checkpoint: str
    output_dir: Path
    models_dir: Path
    offline: bool
    log_level: str
    origin: Mapping[str, str]

    def lines(self) -> list[str]:
        """One line per setting: name, value, where it came from."""
        return [f"{knob.name} = {getattr(self, knob.name)} ({self.origin[knob.name]})" for knob in KNOBS]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag per knob, absent by default so that the lower layers show through."""
    group = parser.add_argument_group("settings")
    for knob in KNOBS:
        text = f"{knob.help} (default {knob.default}; environment {knob.variable})"
        if knob.parse is _truth:
            group.add_argument(knob.flag, action="store_const", const="1", default=None, help=text)
        else:
            group.add_argument(knob.flag, default=None, metavar=knob.name.upper(), help=text)


def resolve(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
    file: Path = SETTINGS_FILE,
) -> Settings:
    """The effective settings.

    Raises:
        InvalidSetting: naming the flag, variable or line, its value and what is allowed.
    """
    stored = _read(file)
    values, origin = {}, {}
    for knob in KNOBS:
        text, source, place = _first_given(knob, flags or {}, environment, stored)
        try:
            values[knob.name] = knob.parse(text)
        except ValueError as error:
            raise InvalidSetting(f"{place}={text!r}: {error}") from None
        origin[knob.name] = source
    _check_faults(environment.get(faults.VARIABLE))
    return Settings(**values, origin=origin)


def _check_faults(text: str | None) -> None:
    """A test's wish that cannot be read is told at the start, not in the middle of a job."""
    try:
        faults.Faults(text) if text else None
    except ValueError as error:
        raise InvalidSetting(str(error)) from None


def _first_given(
    knob: Knob, flags: Mapping[str, Any], environment: Mapping[str, str], stored: Mapping[str, Any]
) -> tuple[str, str, str]:
    if flags.get(knob.name) is not None:
        return str(flags[knob.name]), "flag", knob.flag
    if environment.get(knob.variable):
        return environment[knob.variable], "environment", knob.variable
    if knob.name in stored:
        return str(stored[knob.name]), "settings file", f"{SETTINGS_FILE}: {knob.name}"
    return knob.default, "default", knob.name


def _read(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{file} cannot be read as JSON: {error}. Mend it or delete it.") from None
    if not isinstance(stored, dict):
        raise InvalidSetting(f"{file} must hold a JSON object of settings")
    unknown = sorted(set(stored) - {knob.name for knob in KNOBS})
    if unknown:
        raise InvalidSetting(f"{file}: unknown {', '.join(unknown)}; known are {', '.join(k.name for k in KNOBS)}")
    return stored
