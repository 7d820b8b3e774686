"""The one choice between speed and quality: what each level sets, and which level a form is at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEVELS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"steps": 15, "step_cache": "teacache", "teacache_threshold": 0.25},
    "balanced": {"steps": 25, "step_cache": "teacache", "teacache_threshold": 0.15},
    "quality": {"steps": 30, "step_cache": "off"},
}
"""Level -> the request's fields that it sets. Balanced is the request's defaults."""

CUSTOM = "custom"


def level_of(fields: Mapping[str, Any]) -> str:
    """The level whose values these are, or CUSTOM."""
    for level, knobs in LEVELS.items():
        if all(fields.get(name) == value for name, value in knobs.items()):
            return level
    return CUSTOM
