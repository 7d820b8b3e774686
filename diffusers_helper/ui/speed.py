"""The one choice between speed and quality: what each level sets, and which level a form is at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
