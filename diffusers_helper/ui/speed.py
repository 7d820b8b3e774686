"""Choices that set several fields at once, of speed or quality and of MagCache, and which of them a form is at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..words import Texts
from .phrases import field_value

LEVELS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"steps": 25, "step_cache": "auto", "auto_strength": "fast"},
    "balanced": {"steps": 25, "step_cache": "auto", "auto_strength": "balanced"},
    "quality": {"steps": 25, "step_cache": "auto", "auto_strength": "quality"},
    "exact": {"steps": 25, "step_cache": "off"},
}
"""Level -> the request's fields that it sets. Balanced is the request's defaults."""

CUSTOM = "custom"


def level_of(fields: Mapping[str, Any]) -> str:
    """The level whose values these are, or CUSTOM."""
    for level, knobs in LEVELS.items():
        if all(fields.get(name) == value for name, value in knobs.items()):
            return level
    return CUSTOM


PAIRS: Mapping[str, tuple[float, int]] = {
    "0.10 / 3": (0.10, 3),
    "0.15 / 4": (0.15, 4),
    "0.12 / 3": (0.12, 3),
    "0.24 / 6": (0.24, 6),
}
"""MagCache's threshold and K as they were published together, by its authors and by others."""


def published_pair(fields: Mapping[str, Any]) -> str | None:
    """The pair whose values these are; None where there is none."""
    shown = (fields.get("magcache_threshold"), fields.get("magcache_k"))
    return next((name for name, pair in PAIRS.items() if pair == shown), None)


def cache_in_words(fields: Mapping[str, Any], texts: Texts) -> str:
    """Which step cache flat values choose, and how strong it is."""
    chosen = fields["step_cache"]
    if chosen == "magcache" and fields.get("magcache_calibration"):
        return texts("generate.speed_cache_calibration")
    words = f"generate.speed_cache_{chosen}"
    parameters = {name: field_value(name, value, texts) for name, value in fields.items()}
    return texts(words, **parameters) if words in texts else str(chosen)
