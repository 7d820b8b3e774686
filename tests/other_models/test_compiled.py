"""torch.compile before or after MagCache, for the whole transformer or for its blocks: the same numbers, and it skips.

Graphs are captured as for the compiler, and then run as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from diffusers_helper.other_models import AppliedMagCache, apply_magcache, remove_magcache

from . import tiny
from .tiny import blocks, run

FLUX, VACE = "FluxTransformer2DModel", "WanVACETransformer3DModel"
SMALLER: dict[str, dict[str, Any]] = {FLUX: {"num_single_layers": 1}, VACE: {"num_layers": 1, "vace_layers": [0]}}
STEPS = 5


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def applied(transformer: Any) -> AppliedMagCache:
    """Pattern C..CC."""
    preset = "Wan2.1-VACE-1.3B" if VACE in repr(type(getattr(transformer, "_orig_mod", transformer))) else "FLUX"
    return apply_magcache(transformer, preset, STEPS, ratios=[1.0] * STEPS, threshold=0.1, k=2, retention_ratio=0)


def compiled(transformer: Any, way: str) -> Any:
    if way == "whole":
        return torch.compile(transformer, backend="eager")
    if way == "in place":
        transformer.compile(backend="aot_eager")
    else:
        transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    return transformer


def eager_blocks(transformer: Any) -> list[str]:
    """Filled by the blocks that run outside of compiled code; inside of it, nothing of this is left."""
    found: list[str] = []

    def tell(module: Any, given: Any) -> None:
        if not torch.compiler.is_compiling():
            found.append(type(module).__name__)

    for block in blocks(transformer):
        next(block.children()).register_forward_pre_hook(tell)
    return found


@pytest.mark.parametrize(
    ("way", "name"),
    [
        ("whole", FLUX),
        ("blocks", FLUX),
        pytest.param("in place", FLUX, marks=pytest.mark.slow),
        pytest.param("whole", VACE, marks=pytest.mark.slow),
        pytest.param("blocks", VACE, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_compiled_it_skips_the_same_steps(name: str, way: str, order: str) -> None:
    """Also if it has run before MagCache came; and it computes all steps again when that has gone."""
    eager = tiny.tiny(name, **SMALLER[name])
    plain = run(eager, name, 1, guided=False)
    applied(eager)
    expected = run(eager, name, STEPS, guided=True)
    transformer = tiny.tiny(name, **SMALLER[name])
    uncompiled = eager_blocks(transformer)
    if order == "before":
        transformer = compiled(transformer, way)
        run(transformer, name, 1, guided=False)
        cache = applied(transformer)
    else:
        cache = applied(transformer)
        transformer = compiled(transformer, way)
    made = run(transformer, name, STEPS, guided=True)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert cache.made == {"cond": "C..CC", "uncond": "C..CC"}
    assert uncompiled == []
    captured = counters["stats"]["unique_graphs"]
    assert captured
    run(transformer, name, STEPS, guided=True, seed=1)
    assert counters["stats"]["unique_graphs"] == captured, "a second run compiles nothing again"
    remove_magcache(transformer)
    torch.testing.assert_close(run(transformer, name, 1, guided=False), plain, rtol=1e-4, atol=1e-5)
