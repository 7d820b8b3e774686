"""Texts as HTML, and numbers in the words of a language."""

from __future__ import annotations

from html import escape
from typing import Any

from ..words import Texts
from .loras import LORAS, in_words

LONGEST_SAID = 400


def say(texts: Texts, key: str, **values: Any) -> str:
    """A text, safe to stand in HTML."""
    return escape(texts(key, **values))


def short(text: str) -> str:
    """What a stranger's file says, as far as a page shows it."""
    return text if len(text) <= LONGEST_SAID else f"{text[:LONGEST_SAID]}…"


def number(value: Any) -> str:
    """A number without needless digits."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def duration(seconds: float, texts: Texts) -> str:
    """A length of time, as precise as one wants to know it."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return texts("job.seconds", seconds=whole)
    if whole < 3600:
        return texts("job.minutes", minutes=whole // 60, seconds=whole % 60)
    return texts("job.hours", hours=whole // 3600, minutes=whole % 3600 // 60)


def field_value(name: str, value: Any, texts: Texts) -> str:
    """The value of a request's field as the form would call it."""
    if value is None or value == "":
        return texts("generate.size_choice_fit" if name == "size" else "restore.empty")
    if name == LORAS:
        return in_words(value) or texts("restore.empty")
    if isinstance(value, bool):
        return texts("generate.on" if value else "generate.off")
    choice = f"generate.{name}_choice_{value}"
    return texts(choice) if choice in texts else number(value)
