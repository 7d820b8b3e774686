"""The step caches that a recipe can ask for, with their parameters. Pure; ``select.py`` makes them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ..options import Option


class StepCacheOption(Option):
    """A step cache that can be asked for."""


class TeaCacheOption(StepCacheOption):
    """See teacache.py."""

    name: ClassVar[str] = "teacache"

    threshold: float = Field(default=0.15, ge=0, le=1, description="higher reuses more; 0.1 is the quality setting")


STEP_CACHES: dict[str, type[StepCacheOption]] = {made.name: made for made in (TeaCacheOption,)}
