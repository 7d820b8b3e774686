"""All words that are shown, by key, in three languages: ``texts/<language>/<subject>.json``; and messages, which are
such a key with its values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, InstanceOf

FOLDER = Path(__file__).with_name("texts")
LANGUAGES = ("en", "ja", "zh")
GB = 10**9


class Texts:
    """The texts of one language. ``texts("generate.start")`` is the text ``start`` of ``generate.json``.

    An unknown language is English.
    """

    def __init__(self, language: str = "en") -> None:
        self.language = language if language in LANGUAGES else "en"
        self._texts = _read(self.language)

    def __call__(self, key: str, **values: Any) -> str:
        return self._filled(key, values) if values else self._texts[key]

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def said(self, message: Message | None, otherwise: str = "") -> str:
        """A message in this language; ``otherwise`` where there is none, or only another version has words for it."""
        try:
            return self._filled(message.code, message.values) if message else otherwise
        except (KeyError, ValueError, TypeError):
            return otherwise or message.code if message else otherwise

    def _filled(self, key: str, values: Mapping[str, Any]) -> str:
        """Each value at its place. Raises KeyError, ValueError, TypeError where there is no such text or place."""
        return self._texts[key].format(**{name: self._shown(value) for name, value in values.items()})

    def _shown(self, value: Any) -> Any:
        """A value as it stands in a text."""
        if isinstance(value, Message):
            return self._filled(value.code, value.values)
        if isinstance(value, tuple):
            return _Several([str(self._shown(each)) for each in value], self)
        return _Number(value) if type(value) is int else value


@dataclass(frozen=True, init=False)
class Message:
    """Something to say: ``Message("shortage.blocks", blocks=4)``. As a str it is English.

    Attributes:
        code: the key of its text.
        values: for the places of the text: texts, numbers, messages, or a tuple of messages.
    """

    code: str
    values: Mapping[str, Any]

    def __init__(self, code: str, /, **values: Any) -> None:
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "values", values)

    def __str__(self) -> str:
        return Texts().said(self)

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Message:
        """The inverse of ``dataclasses.asdict``, also out of JSON. Raises ValueError."""
        match content:
            case {"code": str(code), "values": Mapping() as values, **others} if not others:
                return Message(code, **{str(name): _taken(value) for name, value in values.items()})
        raise ValueError("a message has a code and values, and nothing else")


def plain(text: str) -> Message:
    """Words that are the same in every language: a system's, a library's, or those that an earlier version has kept."""
    return Message("words.plain", text=text)


def joined(*messages: Message) -> Message:
    """One sentence after the other."""
    return messages[0] if len(messages) == 1 else Message("words.joined", sentences=messages)


def _taken(value: Any) -> Any:
    """A value of a message out of JSON."""
    if isinstance(value, Mapping):
        return Message.from_dict(value)
    return tuple(map(_taken, value)) if isinstance(value, list | tuple) else value


AnyMessage: TypeAlias = Annotated[Message, InstanceOf(), BeforeValidator(_taken)]
"""A message, or one as JSON has it, for pydantic."""


class _Number(int):
    """A whole number in a text: ``{count:job|jobs}`` is "1 job" or "2 jobs", ``{size:GB}`` of bytes is "1.5"."""

    def __format__(self, how: str) -> str:
        one, between, many = how.partition("|")
        if between:
            return f"{int(self)} {one if self == 1 else many}"
        return f"{self / GB:.1f}" if how == "GB" else format(int(self), how)


class _Several:
    """Messages in a text: ``{reasons:sentences}``, ``{parts:clauses}``, with what stands between such."""

    def __init__(self, words: list[str], texts: Texts) -> None:
        self._words, self._texts = words, texts

    def __format__(self, how: str) -> str:
        return self._texts(f"words.between_{how}").join(self._words)


@cache
def _read(language: str) -> dict[str, str]:
    return {
        f"{file.stem}.{name}": text
        for file in sorted((FOLDER / language).glob("*.json"))
        for name, text in json.loads(file.read_text(encoding="utf-8")).items()
    }
