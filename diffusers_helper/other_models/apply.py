"""``apply_magcache`` and what undoes it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from diffusers.hooks import MagCacheConfig
from torch import nn

from ..errors import UnusableArgument
from .hook import install
from .presets import PRESETS, Preset, preset_named
from .rule import Plan, Ratios, plan
from .runs import Runs

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppliedMagCache:
    """What was applied.

    Attributes:
        plan: what is skipped in a run of that many steps, and how it follows.
    """

    plan: Plan
    _runs: Runs | None

    @property
    def pattern(self) -> str:
        """For each step C (computed) or a dot (skipped), of the branch with the prompt."""
        return self.plan.pattern()

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of it, in words."""
        return self.plan.notes

    @property
    def made(self) -> dict[str, str]:
        """By branch what this run has computed so far, or the last one until the next begins, as in ``pattern``."""
        return dict(self._runs.made) if self._runs else {}

    def begin_run(self) -> None:
        """The next call begins a run: for whoever broke off the last one. diffusers' pipelines say so at their end."""
        if self._runs:
            self._runs.clear()


def apply_magcache(
    transformer: Any,
    preset: str,
    num_inference_steps: int,
    *,
    threshold: float | None = None,
    k: int | None = None,
    retention_ratio: float | None = None,
    ratios: Ratios | None = None,
    uncond_ratios: Ratios | None = None,
) -> AppliedMagCache:
    """Lets a transformer of diffusers skip its blocks on steps that hardly change what they add.

    Applied again, the new settings take the place of the old ones. Threshold 0 or k 0 is off: the transformer is left
    as it is. ``torch.compile`` may come before or after it, for the whole transformer or its blocks, but the whole one
    not with ``fullgraph``.

    Args:
        transformer: of one of the presets' classes, compiled or not.
        preset: the model's name in ``PRESETS``.
        num_inference_steps: how often the pipeline calls the transformer for a branch in one run.
        threshold: of the summed error; lower is slower and nearer to the original. Its default and those of the
            following are the preset's.
        k: how many steps may be skipped in a row.
        retention_ratio: the share of first steps that are always computed.
        ratios: one for each step, of your own calibration; of another length, each step takes the nearest one before.
        uncond_ratios: those of the branch without the prompt, where they differ.

    Raises UnusableArgument, which names the argument.
    """
    row = preset_named(preset)
    found = _checked(transformer, row)
    planned = plan(row, num_inference_steps, threshold, k, retention_ratio, ratios, uncond_ratios)
    remove_magcache(found)
    if found.is_cache_enabled:
        other = type(found._cache_config).__name__
        raise UnusableArgument(f"The transformer has another step cache ({other}); call its disable_cache() first.")
    for note in planned.notes:
        LOG.info("%s", note)
    if not planned.skips:
        return AppliedMagCache(planned, None)
    runs = install(found, planned)
    found._cache_config = _Config(
        planned.threshold, planned.k, planned.retention_ratio, planned.steps, list(planned.ratios[0])
    )
    return AppliedMagCache(planned, runs)


def remove_magcache(transformer: Any) -> None:
    """The transformer computes every step again, as after its own ``disable_cache()``."""
    found = _uncompiled(transformer)
    if isinstance(getattr(found, "_cache_config", None), _Config):
        found.disable_cache()


class _Config(MagCacheConfig):
    """By this diffusers knows that a cache is in use: a second one is refused, and ``disable_cache`` removes it."""


def _uncompiled(transformer: Any) -> Any:
    return getattr(transformer, "_orig_mod", transformer)


def _checked(transformer: Any, preset: Preset) -> Any:
    """The transformer itself, if the preset is for it."""
    found = _uncompiled(transformer)
    classes = {each.__name__ for each in type(found).__mro__}
    if isinstance(found, nn.Module) and preset.transformer in classes:
        return found
    fitting = [name for name, row in PRESETS.items() if row.transformer in classes]
    raise UnusableArgument(
        f"The preset {preset.name} is for a {preset.transformer}, and this is a {type(found).__name__}. "
        + (f"For it there are: {', '.join(fitting)}." if fitting else "For it there is none.")
    )
