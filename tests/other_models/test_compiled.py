"""torch.compile before or after MagCache, for the whole transformer or for its blocks: the same numbers, and it skips.

Graphs are captured as for the compiler, and then run as they are.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from diffusers_helper.other_models import AppliedMagCache, apply_magcache, remove_magcache

from . import tiny
from .tiny import blocks, run

FLUX, WAN, VACE = "FluxTransformer2DModel", "WanTransformer3DModel", "WanVACETransformer3DModel"
SMALLER: dict[str, dict[str, Any]] = {
    FLUX: {"num_single_layers": 1},
    WAN: {"num_layers": 1},
    VACE: {"num_layers": 1, "vace_layers": [0]},
}
PRESET = {FLUX: "FLUX", WAN: "Wan2.1-T2V-1.3B", VACE: "Wan2.1-VACE-1.3B"}
STEPS = 5


pytestmark = pytest.mark.usefixtures("nothing_compiled")


def applied(transformer: Any, name: str) -> AppliedMagCache:
    """Pattern C..CC."""
    given: dict[str, Any] = {"ratios": [1.0] * STEPS, "threshold": 0.1, "k": 2, "retention_ratio": 0}
    return apply_magcache(transformer, PRESET[name], STEPS, **given)


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
        ("whole", WAN),
        ("blocks", FLUX),
        pytest.param("whole", FLUX, marks=pytest.mark.slow),
        pytest.param("in place", FLUX, marks=pytest.mark.slow),
        pytest.param("whole", VACE, marks=pytest.mark.slow),
        pytest.param("blocks", VACE, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_compiled_it_skips_the_same_steps(name: str, way: str, order: str) -> None:
    """Also what has run before MagCache came; and that computes as before when it has gone."""
    eager = tiny.tiny(name, **SMALLER[name])
    plain = run(eager, name, 1, guided=False)
    applied(eager, name)
    expected = run(eager, name, STEPS, guided=True)
    transformer = tiny.tiny(name, **SMALLER[name])
    uncompiled = eager_blocks(transformer)
    if order == "before":
        transformer = compiled(transformer, way)
        run(transformer, name, 1, guided=False)
        cache = applied(transformer, name)
    else:
        cache = applied(transformer, name)
        transformer = compiled(transformer, way)
    made = run(transformer, name, STEPS, guided=True)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert cache.made == {"cond": "C..CC", "uncond": "C..CC"}
    assert uncompiled == []
    captured = counters["stats"]["unique_graphs"]
    assert captured
    run(transformer, name, STEPS, guided=True, seed=1)
    assert counters["stats"]["unique_graphs"] == captured, "a second run compiles nothing again"
    if order == "before":
        remove_magcache(transformer)
        torch.testing.assert_close(run(transformer, name, 1, guided=False), plain, rtol=1e-4, atol=1e-5)
