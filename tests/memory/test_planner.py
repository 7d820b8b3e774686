"""Plans for one video after another: what is free now, what it preserves, and what ran out before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper import planning
from diffusers_helper.errors import OutOfMemory
from diffusers_helper.memory import planner as planners
from diffusers_helper.memory.candidates import LIBRARIES_BYTES
from diffusers_helper.memory.costs import Cached, Constraints, Machine
from diffusers_helper.memory.host import Ram
from diffusers_helper.memory.lessons import Lessons
from diffusers_helper.memory.plan import MemoryPlan
from diffusers_helper.memory.planner import Planner
from diffusers_helper.memory.units import GIB
from diffusers_helper.models.sizes import FULL_SIZE
from diffusers_helper.models.table import Checkpoint
from diffusers_helper.planning import plan_video_memory, planner_for
from diffusers_helper.request import Request
from diffusers_helper.vae.decoders import decoders

from .support import DECODERS, FLOAT32, as_if_on, made_request


@pytest.fixture
def planner(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Planner]:
    """For the 13B checkpoint on a card of 24 GIB."""
    monkeypatch.setattr(planning, "part_sizes", lambda checkpoint, names: FULL_SIZE)

    def make(lessons: Lessons | None = None, vram_gb: float = 24, **constraints: Any) -> Planner:
        free(vram_gb)
        return planner_for(checkpoint, FLOAT32, Constraints(**constraints), Path("hf_download"), lessons)

    def free(vram_gb: float) -> None:
        here = Machine(24 * GIB, int(vram_gb * GIB), 64 * GIB, 60 * GIB, 99 * GIB)
        as_if_on(here, monkeypatch)

    make.free = free  # type: ignore[attr-defined]
    return make


def test_a_video_is_planned_with_what_is_free_now_and_what_it_preserves(planner: Any, photograph: Path) -> None:
    made, request = planner(precision="as_is"), made_request(photograph)
    usual = plan_video_memory(made, request, 640, 640)
    preserving = plan_video_memory(made, request.model_copy(update={"preserved_memory_gb": 12.0}), 640, 640)
    assert preserving.resident_blocks < usual.resident_blocks
    planner.free(18)
    assert plan_video_memory(made, request, 640, 640).resident_blocks < usual.resident_blocks


def test_what_ran_out_is_not_tried_again_before_clearly_more_is_free(planner: Any, photograph: Path) -> None:
    made, request = planner(precision="int8"), made_request(photograph)

    def of(vram_gb: int, height: int = 640) -> MemoryPlan:
        planner.free(vram_gb)
        plan: MemoryPlan = plan_video_memory(made, request, height, 640)
        return plan

    assert (of(36).decode, of(36).take_turns) == ("chunks_4", False)
    made.learn(take_turns=True)
    made.learn(decoder=DECODERS["tiles_1"])
    made.learn(resident_bytes=4e9)
    again = of(36)
    assert (again.decode, again.take_turns) == ("tiles_1", True)
    assert 3.5e9 < again.resident_bytes <= 4e9
    assert of(36, 64).decode == "chunks_4", "a clip that small"
    assert (of(37).decode, of(37).resident_blocks) == ("chunks_4", 60)
    made.learn(decoder=DECODERS["cpu"])
    assert of(36).decode == "cpu"


def test_a_shortage_that_passes_teaches_nothing_for_later(planner: Any, photograph: Path) -> None:
    """Another program took most of the GPU while the video was made, and has ended."""
    made, request = planner(precision="int8"), made_request(photograph)
    before = plan_video_memory(made, request, 640, 640)
    planner.free(3)
    for lesson in (
        {"take_turns": True},
        {"decoder": DECODERS["small_tiles"]},
        {"vae_leaves": True},
        {"resident_bytes": 0},
    ):
        made.learn(**lesson)
    planner.free(24)
    assert plan_video_memory(made, request, 640, 640) == before


def test_lessons_that_leave_no_way_are_forgotten_for_a_video(planner: Any, photograph: Path) -> None:
    made = planner(precision="int8", swap=False)
    made.learn(resident_bytes=1e9)
    assert plan_video_memory(made, made_request(photograph), 640, 640).resident_blocks == 60


def test_clips_go_to_the_cpu_where_ram_has_room(
    planner: Any, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the VAE, and tiles in float32."""
    made = planner()
    plan_video_memory(made, made_request(photograph), 640, 640)
    for ram_gb, room in ((8, True), (6, False)):
        monkeypatch.setattr(planners, "read_ram", lambda free=ram_gb * 10**9: Ram(free, free))
        assert ([each.name for each in made.smaller_decoders("smallest_tiles")] == ["cpu"]) is room


def test_packed_weights_for_which_the_room_is_gone_are_not_taken_for_others(planner: Any, photograph: Path) -> None:
    made = planner(precision="bnb4")
    assert made.plan.precision == "bnb4"
    planner.free(8)
    with pytest.raises(OutOfMemory, match=r"Close other programs .* start this one again, and it takes weights as"):
        plan_video_memory(made, made_request(photograph), 640, 640)


def test_what_cudas_libraries_have_taken_is_counted_once(planner: Any, photograph: Path) -> None:
    """Also by the next engine of the process, from its loading on."""
    lessons, after = Lessons(), 12 - LIBRARIES_BYTES / GIB
    made, request = planner(lessons, 12, precision="int8"), made_request(photograph)
    first = plan_video_memory(made, request, 640, 640)
    planner.free(after)
    assert plan_video_memory(made, request, 640, 640).resident_blocks < first.resident_blocks, (
        "nothing has computed yet"
    )
    made.libraries_are_loaded()
    assert plan_video_memory(made, request, 640, 640).resident_blocks == first.resident_blocks
    assert planner(lessons, after, precision="int8").plan.resident_blocks == made.plan.resident_blocks


def test_the_next_engine_of_the_process_knows_what_ran_out(planner: Any, photograph: Path) -> None:
    lessons, request = Lessons(), made_request(photograph)
    made = planner(lessons, 36, precision="int8")
    assert plan_video_memory(made, request, 640, 640).decode == "chunks_4"
    made.learn(decoder=DECODERS["tiles_1"])
    assert plan_video_memory(planner(lessons, 36, precision="int8"), request, 640, 640).decode == "tiles_1"


@pytest.mark.parametrize(
    ("fields", "branches"), [({"step_cache": "off", "real_cfg": 2.0}, 0), ({}, 1), ({"real_cfg": 2.0}, 2)]
)
def test_a_video_is_planned_with_a_step_cache_for_each_branch(
    fields: dict[str, Any], branches: int, planner: Any, photograph: Path
) -> None:
    made = planner()
    plan_video_memory(made, Request.parse({**made_request(photograph).flat(), **fields}), 640, 640)
    assert made.workload.cached == Cached(branches, branches)


@pytest.mark.parametrize("decoding", ["lean", "quality", "reference"])
@pytest.mark.parametrize("side", [160, 256, 512, 640])
def test_what_takes_over_takes_less(planner: Any, photograph: Path, decoding: str, side: int) -> None:
    """Frames that are too small to be cut are not tried again under another name."""
    made = planner(precision="int8")
    request = made_request(photograph).model_copy(update={"decoding": decoding})
    plan_video_memory(made, request, side, side)
    ladder = decoders(decoding)  # type: ignore[arg-type]
    first = next(iter(ladder.values()))
    needed = [each.device_bytes(made._sizes, made.workload) for each in (first, *made.smaller_decoders(first.name))]
    assert needed == sorted(set(needed), reverse=True)
