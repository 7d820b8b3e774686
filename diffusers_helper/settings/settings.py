"""The effective settings: the groups, where each value came from, and what is said about those that do not count."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from .. import faults
from ..errors import InvalidSetting
from ..names import is_text, shown
from ..words import Message
from .groups import EVERY_ADDRESS, Decoders, Kernels, Log, Memory, Network, PageOptions, Paths, Sampling, Weights
from .knob import Knob, knobs_of
from .older import Groups, Notices, OlderNames, translated
from .parsing import truth
from .sources import SETTINGS_FILE, Sources, read


@dataclass(frozen=True)
class Settings:
    """The effective values, in groups.

    Attributes:
        origin: by the name of a knob, where its value came from: flag, environment, settings file or default.
        given: by the same names, the value that was given, as text for people; older names of a knob have theirs, and
            secrets are not in it.
        from_flags: what flags have set, by variable, for the environment of a process that has no flags but all else
            as this one. What is the page's alone is not in it.
        notices: see ``Notices``.
    """

    paths: Paths
    network: Network
    log: Log
    sampling: Sampling
    kernels: Kernels
    weights: Weights
    memory: Memory
    decoders: Decoders
    origin: Mapping[str, str]
    given: Mapping[str, str]
    from_flags: Mapping[str, str]
    notices: Notices

    def lines(self) -> list[str]:
        """One line per knob: name, value, where it came from."""
        return [f"{name} = {value} ({origin})" for name, value, origin in self.rows()]

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value as text and origin of every knob, as it was given. Secrets are not in them."""
        return [(name, value, self.origin[name]) for name, value in self.given.items()]

    def every_notice(self) -> tuple[Message, ...]:
        """What is said about settings that do not count, for the user."""
        return tuple(chain.from_iterable(self.notices.values()))


@dataclass(frozen=True)
class PageSettings(Settings):
    """The settings of the page."""

    page: PageOptions


SomeSettings = TypeVar("SomeSettings", bound=Settings)


def _groups(settings: type[Settings]) -> Mapping[str, type[Any]]:
    hints: Mapping[str, type[Any]] = get_type_hints(settings)
    return {name: hint for name, hint in hints.items() if is_dataclass(hint)}


def _knobs(settings: type[Settings]) -> Iterator[Knob]:
    """Every knob of the groups, each followed by the older names that are listed after it."""
    older = knobs_of(OlderNames)
    for knob in chain.from_iterable(map(knobs_of, _groups(settings).values())):
        yield knob
        yield from (name for name in older if name.after == knob.name)


KNOBS, PAGE_KNOBS = tuple(_knobs(Settings)), tuple(_knobs(PageSettings))


def add_flags(parser: argparse.ArgumentParser, knobs: tuple[Knob, ...] = KNOBS) -> None:
    """A flag per knob, absent by default so that the lower layers show through."""
    group = parser.add_argument_group("settings")
    for knob in knobs:
        default = f"default {knob.default}; " if knob.default else ""
        text = f"{knob.help} ({default}environment {knob.variable})"
        if knob.parse is truth and knob.default == "0":
            group.add_argument(knob.flag, action="store_const", const="1", default=None, help=text)
        else:
            group.add_argument(knob.flag, default=None, metavar=knob.name.upper(), help=text)
        if knob.name == "server":
            group.add_argument(
                "--listen", dest="server", nargs="?", const=EVERY_ADDRESS, default=None, metavar="SERVER",
                help=f"the same as --server; without a value {EVERY_ADDRESS}",
            )  # fmt: skip


def resolve(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
    file: Path = SETTINGS_FILE,
) -> Settings:
    """The effective settings of the command line.

    Raises:
        InvalidSetting: naming the flag, variable or line, its value and what is allowed.
    """
    return _resolved(Settings, KNOBS, flags or {}, environment, file)


def resolve_page(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
    file: Path = SETTINGS_FILE,
) -> PageSettings:
    """The effective settings of the page. Raises InvalidSetting as ``resolve``, also for those that exclude others."""
    chosen = _resolved(PageSettings, PAGE_KNOBS, flags or {}, environment, file)
    if chosen.page.share and chosen.network.offline:
        raise InvalidSetting("share and offline: a public address needs the network; leave one of them out")
    if not is_text(chosen.paths.output_dir.absolute()):
        raise InvalidSetting(
            f"output_dir={shown(chosen.paths.output_dir.absolute())}: its name is not UTF-8, and what the page and a "
            "browser tell each other of its files is; rename it, or choose another folder. Without the page it can be "
            "used."
        )
    return chosen


def _resolved(
    kind: type[SomeSettings],
    knobs: tuple[Knob, ...],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path,
) -> SomeSettings:
    sources = Sources(flags, environment, read(file, [knob.name for knob in PAGE_KNOBS]))
    found = {knob: sources.find(knob) for knob in knobs}
    _check_faults(environment.get(faults.VARIABLE))
    return kind(
        **_grouped(kind, {knob.name: found[knob].value for knob in knobs}),
        origin={knob.name: found[knob].origin for knob in knobs},
        given={knob.name: knob.shown(found[knob].value) for knob in knobs},
        from_flags={knob.variable: found[knob].text for knob in KNOBS if found[knob].origin == "flag"},
    )


def _grouped(kind: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """The groups of these values, the older names translated, and the notices."""
    made = {name: _filled(group, values) for name, group in _groups(kind).items()}
    renamed = Groups(made["sampling"], made["weights"], made["kernels"])
    groups, notices = translated(renamed, _filled(OlderNames, values))
    return {**made, **vars(groups), "notices": notices}


def _filled(group: type[Any], values: Mapping[str, Any]) -> Any:
    return group(**{knob.name: values[knob.name] for knob in knobs_of(group)})


def _check_faults(text: str | None) -> None:
    """A test's wish that cannot be read is told at the start, not in the middle of a job."""
    try:
        faults.Faults(text) if text else None
    except ValueError as error:
        raise InvalidSetting(str(error)) from None
