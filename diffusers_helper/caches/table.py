"""The step caches that a recipe can ask for, by name. A new one is a file in this room and a line here."""

from __future__ import annotations

from .auto import AutoOption
from .easycache import EasyCacheOption
from .first_block import FirstBlockOption
from .magcache import MagCacheOption
from .seacache import SeaCacheOption
from .step_cache import StepCacheOption
from .teacache import TeaCacheOption

MEASURABLE: dict[str, type[StepCacheOption]] = {
    "teacache": TeaCacheOption,
    "magcache": MagCacheOption,
    "easycache": EasyCacheOption,
    "seacache": SeaCacheOption,
    "first_block": FirstBlockOption,
}
"""What ``auto`` can stand for."""
STEP_CACHES: dict[str, type[StepCacheOption]] = {"auto": AutoOption, **MEASURABLE}
