"""The step caches that a recipe can ask for, by name. A new one is a file in this room and a line here."""

from __future__ import annotations

from .step_cache import StepCacheOption
from .teacache import TeaCacheOption

STEP_CACHES: dict[str, type[StepCacheOption]] = {
    "teacache": TeaCacheOption,
}
