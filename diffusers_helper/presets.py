"""Presets: named parts of a recipe, one small JSON file each, and which of them fills the form at the start.

A preset holds any of a recipe's values, by their flat names; a recipe has no inputs, so no path is in it. In the file
they stand as a recipe has them, in a version of the recipe's. The name may be any a person writes; the
file's name is derived from it and says it only roughly, so that no name can leave the folder or hit another's file.
What comes from outside is taken whole or refused whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FramePackError, NoSettings, OutputFailed, UnusableInput, told_by
from .media.files import make_output_folder, written_whole
from .media.metadata import read_text, strict_object
from .names import quoted
from .request import Recipe
from .request.fields import data_of, fields, flat, without_aliases
from .request.migrate import SCHEMA_VERSION, VERSION, as_present
from .words import Message

KEY = "framepack_preset"
LONGEST_NAME = 80
_STARTUP = ".startup"
_TURNS_TEXT = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Marks that make all that follows run the other way; names in any script do without."""


@dataclass(frozen=True)
class Preset:
    """A name and some flat values of a recipe, checked."""

    name: str
    values: Mapping[str, Any]

    def to_json(self) -> str:
        values = data_of(self.values, Recipe)
        return json.dumps({KEY: SCHEMA_VERSION, "name": self.name, "values": values}, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Preset:
        """The inverse of ``to_json``, for text from anywhere. Raises UnusableInput with the reason."""
        try:
            found = strict_object(text)
            _require_format(found)
        except (NoSettings, UnusableInput) as error:
            raise UnusableInput(Message("preset_error.unusable", reason=told_by(error))) from None
        return cls(clean_name(found["name"]), checked_values(_flat_values(found)))


class PresetStore:
    """The presets in one folder; safe to use from several threads. The folder is made when the first one is saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()

    def presets(self) -> list[Preset]:
        """All usable presets, by name."""
        return sorted((preset for preset, _ in self._found()[0].values()), key=lambda preset: preset.name.casefold())

    def problems(self) -> list[Message]:
        """A message for each file that lies among the presets and cannot be used."""
        return self._found()[1]

    def load(self, name: str) -> Preset:
        """The preset of that name. Raises UnusableInput."""
        return self._require(name)[0]

    def save(self, name: str, values: Mapping[str, Any], replace: bool = False) -> Preset:
        """Keeps ``values`` under ``name``.

        Raises:
            UnusableInput: the name cannot be one or is taken and not to be replaced, or a value is not allowed.
            OutputFailed: it could not be written; an older preset of that name is as it was.
        """
        preset = Preset(clean_name(name), checked_values(values))
        with self._lock:
            there = self._found()[0].get(_identity(preset.name))
            path = there[1] if there else self.folder / file_name(preset.name)
            if path.exists() and not replace:
                raise UnusableInput(Message("preset_error.taken", name=repr(preset.name)))
            self._write(path, preset.to_json())
        return preset

    def remove(self, name: str) -> None:
        """Deletes the preset's file. Raises UnusableInput, OutputFailed."""
        with self._lock:
            preset, path = self._require(name)
            if self.startup() == preset:
                self.choose_startup(None)
            _unlink(path)

    def rename(self, name: str, new_name: str) -> Preset:
        """The same values under another name; a start-up preset stays one. Raises UnusableInput, OutputFailed."""
        with self._lock:
            old, path = self._require(name)
            new = Preset(clean_name(new_name), old.values)
            if _identity(new.name) == _identity(old.name):
                return self.save(new.name, new.values, replace=True)
            was_startup = self.startup() == old
            self.save(new.name, new.values)
            if was_startup:
                self.choose_startup(new.name)
            _unlink(path)
        return new

    def export_text(self, name: str) -> str:
        """The preset as the text of its file. Raises UnusableInput."""
        return self.load(name).to_json()

    def import_text(self, text: str) -> Preset:
        """Keeps a preset that ``export_text`` wrote anywhere. A name that is taken gets a number behind it.

        Raises:
            UnusableInput: the text is no preset, or none of ours; nothing was changed.
            OutputFailed: it could not be written.
        """
        preset = Preset.from_json(text)
        with self._lock:
            taken = self._found()[0]
            return self.save(_free_name(preset.name, set(taken)), preset.values)

    def startup(self) -> Preset | None:
        """The preset that fills the form when the page opens; None when none is chosen or it is gone."""
        try:
            name = (self.folder / _STARTUP).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None
        found = self._found()[0].get(_identity(name))
        return found[0] if found else None

    def choose_startup(self, name: str | None) -> None:
        """Makes ``name`` the start-up preset, or none. Raises UnusableInput, OutputFailed."""
        with self._lock:
            if name is None:
                _unlink(self.folder / _STARTUP)
            else:
                self._write(self.folder / _STARTUP, self._require(name)[0].name)

    def _found(self) -> tuple[dict[str, tuple[Preset, Path]], list[Message]]:
        """Every usable preset and its file by the identity of its name, and what is wrong with the other files."""
        found: dict[str, tuple[Preset, Path]] = {}
        problems = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                preset = _read(path)
                if _identity(preset.name) in found:
                    raise UnusableInput(Message("preset_error.twice", name=repr(preset.name)))
                found[_identity(preset.name)] = preset, path
            except UnusableInput as error:
                problems.append(about_file(path, error))
        return found, problems

    def _require(self, name: str) -> tuple[Preset, Path]:
        found = self._found()[0]
        if not isinstance(name, str) or _identity(name) not in found:
            known = ", ".join(repr(preset.name) for preset, _ in found.values()) or Message("words.none")
            raise UnusableInput(Message("preset_error.unknown", name=quoted(name), known=known))
        return found[_identity(name)]

    def _write(self, path: Path, text: str) -> None:
        make_output_folder(self.folder)
        with written_whole(path) as part:
            part.write_text(text, encoding="utf-8")


def about_file(path: Path, error: FramePackError) -> Message:
    """Why the file of a preset is refused."""
    return Message("preset_error.about_file", file=path.name, reason=error.said)


def clean_name(name: Any) -> str:
    """``name`` as it is kept: composed, without spaces around it. Raises UnusableInput when it cannot be a name."""
    if not isinstance(name, str):
        raise UnusableInput(Message("preset_error.no_text", name=quoted(name)))
    name = unicodedata.normalize("NFC", name).strip()
    if not 1 <= len(name) <= LONGEST_NAME:
        length = Message("preset_error.length", most=LONGEST_NAME, count=len(name), name=quoted(name))
        raise UnusableInput(length)
    kinds = {unicodedata.category(sign) for sign in name}
    if kinds & {"Cc", "Cs", "Zl", "Zp"} or kinds <= {"Cf", "Zs", "Mn"} or _TURNS_TEXT.search(name):
        raise UnusableInput(Message("preset_error.invisible", name=quoted(name)))
    return name


def checked_values(values: Any) -> dict[str, Any]:
    """Flat values as a recipe would hold them. Raises UnusableInput naming each that is wrong."""
    if not isinstance(values, Mapping):
        raise UnusableInput(Message("preset_error.no_values", values=quoted(values)))
    values, known = without_aliases(values), fields(Recipe)
    unknown = sorted(str(name) for name in values if name not in known)
    if unknown:
        lists = {"unknown": ", ".join(map(quoted, unknown)), "known": ", ".join(known)}
        raise UnusableInput(Message("preset_error.unknown_fields", **lists))
    meant = Recipe.parse(values).flat()
    return {name: meant[name] for name in known if name in values and name in meant}


def _flat_values(found: Mapping[str, Any]) -> Any:
    """What a file's values are in the present version, by their flat names."""
    values = found["values"]
    if not isinstance(values, Mapping) or VERSION in values:
        return values
    return flat(as_present({**values, VERSION: found[KEY]}), Recipe)


def file_name(name: str) -> str:
    """The file of a preset: the letters of its name that every system takes, and a mark that only this name has."""
    letters = re.sub(r"[^a-z0-9]+", "-", _identity(name))[:40].strip("-") or "preset"
    return f"{letters}-{hashlib.sha256(_identity(name).encode()).hexdigest()[:12]}.json"


def _identity(name: str) -> str:
    """Two names with the same identity are the same to a reader, and so must not both exist."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def _free_name(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while _identity(free) in taken:
        number += 1
        free = f"{name[: LONGEST_NAME - 6]} ({number})"
    return free


def _require_format(found: Mapping[str, Any]) -> None:
    """Raises UnusableInput unless ``found`` has the shape that this version writes."""
    version = found.get(KEY)
    if type(version) is not int:
        other = Message("preset_error.other_program")
        raise UnusableInput(other if version is None else Message("preset_error.no_version", version=quoted(version)))
    if not 1 <= version <= SCHEMA_VERSION:
        raise UnusableInput(Message("preset_error.later", version=version, known=SCHEMA_VERSION))
    if set(found) != {KEY, "name", "values"}:
        raise UnusableInput(Message("preset_error.keys", key=KEY))


def _read(path: Path) -> Preset:
    if path.is_symlink() or not path.is_file():
        raise UnusableInput(Message("preset_error.not_plain"))
    return Preset.from_json(read_text(path))


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputFailed(Message("preset_error.not_deleted", path=str(path), reason=error.strerror)) from None
