"""The words of the page, by key, in three languages: ``texts/<language>/<tab>.json``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("texts")
LANGUAGES = ("en", "ja", "zh")


class _Count(int):
    """A number that a text may give its noun: ``{count:job|jobs}`` is "1 job" or "2 jobs"."""

    def __format__(self, nouns: str) -> str:
        one, between, many = nouns.partition("|")
        return f"{int(self)} {one if self == 1 else many}" if between else format(int(self), nouns)


class Texts:
    """The texts of one language. ``texts("generate.start")`` is the text ``start`` of ``generate.json``.

    An unknown language is English.
    """

    def __init__(self, language: str = "en") -> None:
        self.language = language if language in LANGUAGES else "en"
        self._texts = _read(self.language)

    def __call__(self, key: str, **values: object) -> str:
        counted = {name: _Count(value) if type(value) is int else value for name, value in values.items()}
        return self._texts[key].format(**counted) if values else self._texts[key]

    def __contains__(self, key: str) -> bool:
        return key in self._texts


@cache
def _read(language: str) -> dict[str, str]:
    return {
        f"{file.stem}.{name}": text
        for file in sorted((FOLDER / language).glob("*.json"))
        for name, text in json.loads(file.read_text(encoding="utf-8")).items()
    }
