"""MagCache for other models: diffusers' FLUX, Chroma, HunyuanVideo and Wan 2.1, with the settings published for each.

::

    magcache = apply_magcache(pipe.transformer, "FLUX", num_inference_steps=28)
    print(magcache.pattern, *magcache.notes)
    pipe(prompt, num_inference_steps=28)
    remove_magcache(pipe.transformer)

A room for programs of others: nothing of the application imports it.
"""

from __future__ import annotations

from .apply import AppliedMagCache, apply_magcache, remove_magcache
from .presets import PRESETS

__all__ = ["PRESETS", "AppliedMagCache", "apply_magcache", "remove_magcache"]
