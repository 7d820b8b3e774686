"""The words of the page, by key, in three languages: ``texts/<language>/<tab>.json``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("texts")
LANGUAGES = ("en", "ja", "zh")


class Texts:
    """The texts of one language. ``texts("generate.start")`` is the text ``start`` of ``generate.json``.

    An unknown language is English.
    """

    def __init__(self, language: str = "en") -> None:
        self.language = language if language in LANGUAGES else "en"
        self._texts = _read(self.language)

    def __call__(self, key: str, **values: object) -> str:
        return self._texts[key].format(**values) if values else self._texts[key]

    def __contains__(self, key: str) -> bool:
        return key in self._texts


@cache
def _read(language: str) -> dict[str, str]:
    return {
        f"{file.stem}.{name}": text
        for file in sorted((FOLDER / language).glob("*.json"))
        for name, text in json.loads(file.read_text(encoding="utf-8")).items()
    }
