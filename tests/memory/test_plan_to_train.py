"""Memory plans for a step of training: what fits on which card, and that nothing exceeds what is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_helper.errors import OutOfMemory
from diffusers_helper.memory.costs import Cached, Constraints, Learning, Machine, Workload
from diffusers_helper.memory.plan import MemoryPlan
from diffusers_helper.memory.units import GB
from diffusers_helper.models.sizes import FULL_SIZE

from .support import plan_on

RANK_16 = 75_890_688
"""Numbers of a LoRA of rank 16 of all linears that are trained."""
VIDEO = replace(Workload.of(640, 608), cached=Cached(), lora_bytes=16 * RANK_16, learning=Learning())
PICTURE = replace(VIDEO, tokens=5800)


def card(vram_gb: float, ram_gb: float = 32) -> Machine:
    return Machine(int(vram_gb * GB), int(0.95 * vram_gb * GB), int(ram_gb * GB), int(0.8 * ram_gb * GB), 10**12)


def planned(machine: Machine, workload: Workload = VIDEO, **constraints: Any) -> MemoryPlan:
    return plan_on(machine, FULL_SIZE, workload, Constraints(**constraints))


TABLE: dict[tuple[float, float], tuple[str, str, str, bool]] = {
    (12, 32): ("int8", "swapped", "in_ram", True),
    (16, 32): ("int8", "swapped", "again", True),
    (24, 32): ("int8", "gpu", "again", True),
    (24, 64): ("as_is", "swapped", "again", True),
    (48, 64): ("as_is", "gpu", "again", False),
}
"""VRAM and RAM -> weights, where they are, what becomes of activations, and whether modulation is a table."""


@pytest.mark.parametrize("size", TABLE)
def test_a_section_of_full_size_is_trained_from_12_gb(size: tuple[float, float]) -> None:
    plan = planned(card(*size))
    found = (plan.precision, plan.residency["transformer"], plan.stored, plan.modulation_table)
    assert found == TABLE[size]
    assert plan.peak_vram_bytes <= plan.free_vram_bytes
    assert plan.peak_ram_bytes <= plan.free_ram_bytes


def test_one_frame_is_trained_on_8_gb_and_as_quickly_as_there_is_room() -> None:
    assert planned(card(8), PICTURE).stored == "again"
    assert planned(card(141), PICTURE).stored == "kept"
    asked = replace(PICTURE, learning=Learning(("again", "in_ram")))
    assert planned(card(141), asked).stored == "again"


def test_what_is_said_of_it() -> None:
    assert "computed again in the backward pass from inputs that wait in RAM" in str(planned(card(12)).why)
    assert "decoding" not in str(planned(card(12)).why)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(OutOfMemory, match=r"(at 75 % in|A latent window of 3) "):
        planned(card(8))
    with pytest.raises(OutOfMemory, match=r"at least \d+\.\d GB of GPU memory .* Close other programs"):
        planned(card(2))


@settings(max_examples=60)
@given(vram=st.floats(4, 90), ram=st.floats(8, 130), tokens=st.integers(500, 40_000))
def test_it_never_exceeds_what_is_there(vram: float, ram: float, tokens: int) -> None:
    machine = card(vram, ram)
    try:
        plan = planned(machine, replace(VIDEO, tokens=tokens))
    except OutOfMemory:
        return
    assert plan.peak_vram_bytes <= machine.vram_free
    assert plan.peak_ram_bytes <= machine.ram_free
    assert plan.stored != "kept" or plan.resident_blocks == plan.blocks


@pytest.mark.parametrize("fp8", ["fp8", "bnb4", "bnb8"])
def test_other_weights_are_trained_on_where_they_are_asked_for(fp8: Any) -> None:
    assert planned(card(24), precision=fp8).precision == fp8
