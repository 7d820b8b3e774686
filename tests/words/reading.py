"""The files of texts as they stand on the disk, read without the program."""

from __future__ import annotations

import json
import string

from diffusers_helper.words.texts import FOLDER

TABS = sorted(file.name for file in (FOLDER / "en").glob("*.json"))


def texts_of(language: str, tab: str) -> dict[str, str]:
    content = json.loads((FOLDER / language / tab).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def texts_by_key() -> dict[str, str]:
    """All English texts, as the code names them."""
    return {f"{tab.removesuffix('.json')}.{name}": text for tab in TABS for name, text in texts_of("en", tab).items()}


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
