"""Every method over blocks that are swapped, quantised or compiled, and at full size: what a reused step saves."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from diffusers_helper.caches.step_cache import Rule
from diffusers_helper.engine import SectionDenoiser
from diffusers_helper.memory.transport import ThreadTransport
from diffusers_helper.models.quantise import quantise
from diffusers_helper.models.speed import apply_kernels
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.settings import Kernels, resolve

from ..models.test_swapped_transformer import block_bytes
from ..models.test_transformer import CONFIG
from ..models.tiny import tiny_inputs, tiny_transformer
from ..parity import pack
from .methods import MEASURED, METHODS, Replay, denoiser, mask, option, run, steps_of_run
from .test_new_caches import Counting

each = pytest.mark.parametrize("method", METHODS)


def transformer() -> FramePackTransformer:
    return copy.deepcopy(pack.transformer())


@each
@pytest.mark.parametrize("forecast", [False, True])
def test_swapped_not_one_bit_differs_and_reused_steps_copy_nothing(method: str, forecast: bool) -> None:
    model, fields = transformer(), {f"{method}_forecast": forecast}
    resident = denoiser(model, method, **fields)
    wanted = run(resident)
    counting, passing = Counting(ThreadTransport()), denoiser(model, method, **fields)
    with model.swap_blocks(counting):  # type: ignore[arg-type]
        states = [(state.denoised, counting.copies) for state in steps_of_run(passing)]
    assert torch.equal(states[-1][0], wanted)
    assert mask(passing) == mask(resident)
    copies = [0, *(copies for _, copies in states)]
    assert "".join("C" if after > before else "." for before, after in pairwise(copies)) == mask(passing)


@each
def test_quantised_it_is_the_run_with_the_same_steps(method: str) -> None:
    """Resident and swapped; for those whose blocks run all or not at all, also without the method but its mask."""
    model = transformer()
    quantise(model, "int8")
    resident, passing = denoiser(model, method), denoiser(model, method)
    wanted = run(resident)
    assert "." in mask(resident)
    with model.swap_blocks(ThreadTransport(), block_bytes(model) // 3):
        assert torch.equal(run(passing), wanted)
    if method != "first_block":
        assert torch.equal(run(replaying(model, mask(resident))), wanted)


def replaying(model: FramePackTransformer, steps: str) -> SectionDenoiser:
    """A section with the steps of a mask computed."""
    made = denoiser(model, "off")
    cache = Replay(Rule(made.sigmas.tolist(), 0.5), steps)
    made.denoise._positive["step_cache"] = cache
    return made


# Compiled: graphs are captured as for the compiler and then run as they are.


@pytest.fixture
def compiled(nothing_compiled: None, tracer: None, tmp_path: Path) -> Kernels:
    return resolve({"models_dir": str(tmp_path), "compile": "1"}, {}, tmp_path / "none.json").kernels


@torch.inference_mode()
def velocities(
    model: FramePackTransformer, method: str, height: int, width: int, steps: int = 4
) -> tuple[list[Tensor], list[bool]]:
    """Of a section of six steps, and which of them were computed."""
    cache, given = option(method).make([1 - k / 6 for k in range(6)], MEASURED), tiny_inputs(height, width)
    noisy = [given["hidden_states"] * 0.9**k for k in range(steps)]
    return [model(**{**given, "hidden_states": each}, step_cache=cache) for each in noisy], cache.computed


def test_compiled_nothing_breaks_and_nothing_is_compiled_again(compiled: Kernels) -> None:
    """Over methods, sections, sizes, and a section that was broken off after two steps."""
    model, sections = tiny_transformer(), [(method, *size) for method in METHODS for size in ((8, 8), (8, 12))]
    plain = [velocities(model, *section) for section in sections]
    assert not all(computed for _, steps in plain for computed in steps)
    apply_kernels(model, torch.device("cpu"), torch.float32, compiled)
    for size in ((8, 8), (8, 12)):
        velocities(model, "magcache", *size, steps=1)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs
    for section, (wanted, computed) in zip(sections, plain, strict=True):
        velocities(model, *section, steps=2)
        found, mine = velocities(model, *section)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert mine == computed
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


# At full size, on the meta device: operations counted, none computed.


class Skipping(Replay):
    """Computes the first step and reuses the next."""

    def __init__(self) -> None:
        super().__init__(Rule((1.0, 0.9, 0.8), 0.5), "C.C")


def test_at_full_size_a_reused_step_does_none_of_the_blocks_work() -> None:
    with torch.device("meta"):
        model = FramePackTransformer.from_config(CONFIG)
        given = {
            "hidden_states": torch.empty(2, 16, 9, 80, 76),
            "timestep": torch.empty(2),
            "encoder_hidden_states": torch.empty(2, 60, 4096),
            "encoder_attention_mask": torch.empty(2, 60, dtype=torch.bool),
            "pooled_projections": torch.empty(2, 768),
            "image_embeds": torch.empty(2, 729, 1152),
            "guidance": torch.empty(2),
            "indices_latents": torch.empty(9),
            "latents_clean": torch.empty(2, 16, 2, 80, 76),
            "indices_latents_clean": torch.empty(2),
        }
    computed, reused = (sum(counted.values()) for counted in flops(model, given))
    assert reused < 0.01 * computed


@torch.inference_mode()
def flops(model: FramePackTransformer, given: dict[str, Any]) -> Iterator[dict[str, int]]:
    """Of the parts of a computed and of a reused step."""
    cache, ran = Skipping(), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda *_: ran.append(1))
    for runs in (len(model.blocks), 0):
        ran.clear()
        with FlopCounterMode(display=False) as counter:
            model(**given, step_cache=cache)
        assert len(ran) == runs
        yield {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
