"""The flat names by which people know a recipe's values: flags of the command line, keys of the API, parts of the form.

Most are the names of the recipe's own. A choice has its own name for what is chosen, and for each parameter of an
option the option's name before it: ``step_cache`` is "off", "teacache" and so on, and there is
``teacache_threshold``. The table of a choice says all of them, so an option that joins it has its flags and keys
at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..errors import InvalidRequest, Problem
from ..names import quoted
from ..options import NONE, OneOf, Option
from .migrate import VERSION
from .parts import TimedPrompt

PICTURE = "picture"
"""The flat name of the start picture's path."""
PICTURES = "pictures"
"""The flat name of the other pictures, as data."""
ALIASES = {"enable_magcache": "magcache", "teacache": "teacache"}
"""Older names, and of which step cache they say that it is on. The first goes before the second."""
QUALITY_MODE = "quality_mode"
"""Another name of the decoding that is called quality."""
_NO_NAMES = (VERSION, "fps")
"""Parts of a recipe that have no flat name, since they have one value."""


@dataclass(frozen=True)
class Field:
    """A value by its flat name.

    Attributes:
        info: its description, type, bounds and default; of a choice the choice's.
        choice: of which choice it says the option.
        option: whose parameter it is.
        decided_by: the recipe's name of the choice that this is a parameter in.
    """

    name: str
    info: FieldInfo
    choice: OneOf | None = None
    option: type[Option] | None = None
    decided_by: str = ""

    @property
    def names(self) -> tuple[str, ...] | None:
        """What it can be, where that is one of some names."""
        if self.choice:
            return self.choice.names
        return get_args(self.info.annotation) if get_origin(self.info.annotation) is Literal else None

    @property
    def default(self) -> Any:
        """Its flat value where nothing is said; None where it has to be said."""
        if self.choice:
            chosen = self.info.default
            return chosen.name if isinstance(chosen, Option) else NONE
        return None if self.info.is_required() else self.info.default


def fields(recipe: type[BaseModel]) -> dict[str, Field]:
    """All of a recipe, by name, in its order."""
    return {field.name: field for field in _fields(recipe)}


def _fields(recipe: type[BaseModel]) -> Iterator[Field]:
    for name, info in recipe.model_fields.items():
        choice = choice_of(info)
        if name == "prompts":
            yield Field("prompt", TimedPrompt.model_fields["text"])
        elif name not in _NO_NAMES:
            yield Field(name, info, choice)
        for option in choice.table.values() if choice else ():
            for parameter, of_option in option.model_fields.items():
                yield Field(_flat_name(option, parameter), of_option, option=option, decided_by=name)


def _flat_name(option: type[Option], parameter: str) -> str:
    return f"{option.name}_{parameter}"


def choice_of(info: FieldInfo) -> OneOf | None:
    """The choice that a field of a recipe is."""
    return next((rule for rule in info.metadata if isinstance(rule, OneOf)), None)


def choices(recipe: type[BaseModel]) -> dict[str, OneOf]:
    """The choices of a recipe, by its own names."""
    found = {name: choice_of(info) for name, info in recipe.model_fields.items()}
    return {name: choice for name, choice in found.items() if choice}


def data_of(named: Mapping[str, Any], recipe: type[BaseModel]) -> dict[str, Any]:
    """Flat values as data of a recipe, whole or a part; unknown names are kept, for whoever checks to refuse.

    A parameter alone chooses its option.
    """
    named = without_aliases(named)
    tables = choices(recipe)
    parameters = {
        _flat_name(option, parameter)
        for choice in tables.values()
        for option in choice.table.values()
        for parameter in option.model_fields
    }
    data = {name: value for name, value in named.items() if name not in parameters and name not in tables}
    for name, choice in tables.items():
        data.update(_chosen(name, choice, named))
    if "prompt" in data:
        text = data.pop("prompt")
        data.setdefault("prompts", [{"text": text}])
    return data


def _chosen(name: str, choice: OneOf, named: Mapping[str, Any]) -> dict[str, Any]:
    """What flat values say about one choice: nothing, no option, or an option with the parameters that it has."""
    given = {option.name: _parameters(option, named) for option in choice.table.values()}
    alone = next((option for option in given if given[option]), None)
    if name not in named and alone is None:
        return {}
    chosen = named.get(name, alone)
    if isinstance(chosen, Mapping):
        return {name: chosen}
    if chosen is None or (chosen == NONE and choice.optional):
        return {name: None}
    return {name: {"name": chosen, **(given.get(chosen, {}) if isinstance(chosen, str) else {})}}


def _parameters(option: type[Option], named: Mapping[str, Any]) -> dict[str, Any]:
    """What flat values say of an option's parameters."""
    flat_names = {parameter: _flat_name(option, parameter) for parameter in option.model_fields}
    return {parameter: named[flat] for parameter, flat in flat_names.items() if flat in named}


def idle_of(
    named: Mapping[str, Any], data: Mapping[str, Any], recipe: type[BaseModel]
) -> Iterator[tuple[str, OneOf, dict[str, Any]]]:
    """(choice, its table, option with parameters) for parameters that are given to an option that is not chosen.

    ``data``: what ``data_of`` made of ``named``.
    """
    for name, choice in choices(recipe).items():
        chosen = data.get(name)
        for option in choice.table.values():
            given = _parameters(option, named)
            if given and not (isinstance(chosen, Mapping) and chosen.get("name") == option.name):
                yield name, choice, {"name": option.name, **given}


def without_aliases(named: Mapping[str, Any]) -> dict[str, Any]:
    """Older names in today's: ``teacache`` and ``enable_magcache`` say whether that step cache is on, ``quality_mode``
    whether the decoding is quality.

    Where no step cache is named and both are asked for, MagCache goes before TeaCache. The parameters of one that is
    said to be off choose nothing. Raises InvalidRequest.
    """
    named = _without_quality_mode(named)
    asked = {cache: _truth(named, name) for name, cache in ALIASES.items() if name in named}
    found = {name: value for name, value in named.items() if name not in ALIASES}
    chosen = next((cache for cache in ALIASES.values() if cache in asked_for(named)), None)
    if chosen is None and asked.get("teacache") is False:
        chosen = NONE
    if chosen is None:
        off = tuple(f"{cache}_" for cache in asked)
        found = {name: value for name, value in found.items() if not name.startswith(off)}
    if "step_cache" not in found:
        return {**found, "step_cache": chosen} if (asked and chosen) or asks_for_both(named) else found
    for name, cache in ALIASES.items():
        if cache in asked and asked[cache] != (found["step_cache"] == cache):
            raise _contradicted("an older name", name, "step_cache", named)
    return found


def _without_quality_mode(named: Mapping[str, Any]) -> Mapping[str, Any]:
    if QUALITY_MODE not in named:
        return named
    wished = _truth(named, QUALITY_MODE)
    if "decoding" in named and wished != (named["decoding"] == "quality"):
        raise _contradicted("another name", QUALITY_MODE, "decoding", named)
    found = {name: value for name, value in named.items() if name != QUALITY_MODE}
    return {"decoding": "quality" if wished else "lean", **found}


def _contradicted(what: str, name: str, of: str, named: Mapping[str, Any]) -> InvalidRequest:
    words = f"{name}: is {what} of {of}, which is {quoted(named[of])}; leave it out"
    return InvalidRequest(words, [Problem(name, "other", named[name])])


def _truth(named: Mapping[str, Any], name: str) -> bool:
    if type(named[name]) is not bool:
        problem = Problem(name, "other", named[name])
        raise InvalidRequest(f"{name}: {quoted(named[name])} is not allowed; give true or false", [problem])
    return bool(named[name])


def asked_for(named: Mapping[str, Any]) -> set[str]:
    """Of the step caches that have older names those that flat values ask for, by these or by their parameters."""
    by_parameters = {cache for cache in ALIASES.values() if any(name.startswith(f"{cache}_") for name in named)}
    said = {cache: named[name] for name, cache in ALIASES.items() if name in named}
    return {cache for cache in ALIASES.values() if said.get(cache, cache in by_parameters)}


def asks_for_both(named: Mapping[str, Any]) -> bool:
    """Whether flat values ask for TeaCache and MagCache, and name no step cache."""
    return "step_cache" not in named and len(asked_for(named)) == len(ALIASES)


def flat(data: Mapping[str, Any], recipe: type[BaseModel]) -> dict[str, Any]:
    """The inverse of ``data_of`` for a recipe's data, whole or a part, checked or not.

    What has no flat name keeps its own, unless it says what goes without saying; so do several prompts, of which the
    first is ``prompt``.
    """
    found: dict[str, Any] = {}
    tables = choices(recipe)
    for name, value in data.items():
        if name in tables:
            found.update(_flat_option(name, value, recipe))
        elif name == "prompts":
            found.update(_flat_prompts(value))
        elif name not in _NO_NAMES or (name != VERSION and not _is_default(value, recipe.model_fields[name])):
            found[name] = value
    return found


def _flat_prompts(value: Any) -> dict[str, Any]:
    prompts = value if isinstance(value, (list, tuple)) else ()
    first = prompts[0] if prompts else None
    prompt = {"prompt": first.get("text", "")} if isinstance(first, Mapping) else {}
    return {**prompt, **({} if prompt and len(prompts) == 1 else {"prompts": value})}


def _is_default(value: Any, info: FieldInfo) -> bool:
    return bool(value == info.default or (not value and not info.default))


def _flat_option(name: str, value: Any, recipe: type[BaseModel]) -> dict[str, Any]:
    """The option's name, and its parameters by theirs; what is no option of the table is kept as it is."""
    info = recipe.model_fields[name]
    table = (choice_of(info) or OneOf({})).table
    option = value.get("name") if isinstance(value, Mapping) else None
    if value is None and info.default is not None:
        return {name: NONE}
    if not isinstance(option, str) or option not in table or value.keys() - {"name", *table[option].model_fields}:
        return {name: value}
    parameters = {f"{option}_{parameter}": given for parameter, given in value.items() if parameter != "name"}
    return {name: option, **parameters}
