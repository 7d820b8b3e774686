"""Clips decoded while the next section is sampled: where the plan has room, and what happens where it was wrong."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_helper.engine import Engine
from diffusers_helper.events import Event, Finished, Notice
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.memory.costs import Beside, Constraints, Machine, Workload
from diffusers_helper.memory.lessons import Lesson
from diffusers_helper.memory.plan import MemoryPlan
from diffusers_helper.memory.units import GB, GIB
from diffusers_helper.models.sizes import FULL_SIZE
from diffusers_helper.request import Request

from .conftest import Load
from .support import FULL, REQUEST, SOME, failing, moving, plan_on

USUAL = Workload.of(640, 608)
BESIDE = moving("swapped", "gpu", beside="decoding", **SOME)


def planned(vram_gib: float, ram_gib: float = 64, **constraints: Any) -> MemoryPlan:
    vram, ram = int(vram_gib * GIB), int(ram_gib * GIB)
    machine = Machine(vram, vram * 93 // 100, ram, ram * 85 // 100, 100 * GB)
    return plan_on(machine, FULL_SIZE, USUAL, Constraints(**constraints))


@pytest.mark.parametrize("vram_gib", [6, 8, 12, 16, 24, 48, 80])
def test_a_clip_is_decoded_beside_where_both_have_room(vram_gib: int) -> None:
    """The plan counts both at once, and says so; on no card it keeps less of the transformer for that."""
    made, alone = planned(vram_gib), planned(vram_gib, beside=False)
    assert alone.beside == "nothing"
    assert made.beside in ("writing", "decoding")
    assert (made.resident_blocks, made.take_turns, made.decode) == (
        alone.resident_blocks,
        alone.take_turns,
        alone.decode,
    )
    assert made.peak_vram_bytes >= alone.peak_vram_bytes
    assert made.peak_vram_bytes <= made.free_vram_bytes
    assert ("while the next section is sampled" in str(made.why)) == (made.beside == "decoding")
    assert not (made.beside == "decoding" and made.take_turns)


def test_a_large_card_decodes_beside_and_a_small_one_writes() -> None:
    assert planned(80).beside == "decoding"
    assert planned(6).beside == "writing"


@pytest.mark.parametrize(
    ("asked", "ram_gib", "beside"),
    [(None, 256, "nothing"), (False, 256, "nothing"), (True, 256, "decoding")],
)
def test_without_a_gpu_it_must_be_asked_for(asked: bool | None, ram_gib: int, beside: Beside) -> None:
    made = planned(0, ram_gib, beside=asked)
    assert made.beside == beside
    assert made.peak_ram_bytes <= made.free_ram_bytes


def test_without_a_gpu_ram_must_hold_both() -> None:
    alone = planned(0, 256, beside=False)
    both = planned(0, 256, beside=True)
    between = (alone.peak_ram_bytes + both.peak_ram_bytes) / 2 / GIB / 0.85
    assert planned(0, between, beside=True).beside == "writing"


def test_a_vae_that_leaves_and_a_transformer_that_leaves_end_it() -> None:
    made = planned(80)
    for changed in (made.alone(), made.with_vae_lent(), made.in_turns()):
        assert changed.beside == "writing"
    assert replace(made, beside="nothing").alone().beside == "nothing"


@pytest.fixture
def long(photograph: Path, tmp_path: Path) -> Any:
    """Frames and events of a video of two sections."""

    def made(engine: Engine) -> tuple[np.ndarray, list[Event]]:
        size = engine.checkpoint.buckets[0]
        fields = {**REQUEST, "seconds": 2.4, "size": f"{size[1]}x{size[0]}", "kind": "f1"}
        events = list(generate(Request.parse({"picture": str(photograph), **fields}), engine, tmp_path))
        assert isinstance(events[-1], Finished), events[-1]
        return read_frames(Path(events[-1].path or "")), events

    return made


def told(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice) and "ran out of memory" in event.message]


def test_both_on_one_device_make_the_same_frames(engine: Load, long: Any) -> None:
    plain, _ = long(engine(moving("swapped", "gpu", **SOME)))
    made = engine(BESIDE)
    threads = set()
    decode = made._decode

    def watched(latents: torch.Tensor) -> torch.Tensor:
        threads.add(threading.current_thread().name)
        return decode(latents)

    made._decode = watched  # type: ignore[method-assign]
    frames, events = long(made)
    assert np.array_equal(frames, plain)
    assert not told(events)
    assert all("framepack-clip" in name for name in threads)
    assert made.residency.loans["vae"].away, "the VAE stays"


def test_a_clip_for_which_there_is_no_room_beside_is_decoded_alone(engine: Load, long: Any) -> None:
    """Now and, as long as no more is free, in later videos."""
    plain, _ = long(engine(moving("swapped", "gpu", **SOME)))
    made = engine(BESIDE)
    made._decode = failing(made._decode, 1)  # type: ignore[method-assign]
    frames, events = long(made)
    assert np.array_equal(frames, plain)
    (words,) = told(events)
    assert "beside the sampling" in words
    assert made.beside == "writing"
    lesson = made.planner._learnt.learnt[-1]
    assert lesson == Lesson(lesson.vram_free, alone=True)


def test_a_step_for_which_there_is_no_room_beside_ends_that_first(engine: Load, long: Any) -> None:
    made = engine(BESIDE)
    transformer = made.parts.transformer
    transformer.forward = failing(transformer.forward, 2, at=3)  # type: ignore[method-assign]
    _, events = long(made)
    first, second = told(events)
    assert "beside the sampling" in first
    assert "freed" in second
    assert made.beside == "writing"


def test_who_runs_out_of_memory_waits_for_the_clip(engine: Load) -> None:
    """Until then nobody is sent from the device."""
    made = engine(BESIDE)
    story: list[str] = []
    begun = threading.Event()

    def decode() -> None:
        with made.degradation.undisturbed():
            begun.set()
            cleared.wait(0.2)
            story.append("decoded")

    cleared = threading.Event()
    decoding = threading.Thread(target=decode)
    decoding.start()
    assert begun.wait(60)
    clear = made.residency.clear

    def watched() -> None:
        story.append("cleared")
        cleared.set()
        clear()

    made.residency.clear = watched  # type: ignore[method-assign]
    made.residency.decode_alone()
    made.degradation.attempt("sample", failing(lambda: None, 1))
    decoding.join()
    assert story == ["decoded", "cleared"]


def test_a_vae_that_does_not_come_for_good_is_not_used_beside(engine: Load, long: Any) -> None:
    plain, _ = long(engine(moving("swapped", "gpu", **SOME)))
    made = engine(BESIDE)
    made.residency.bring = lambda part: False  # type: ignore[method-assign]
    frames, _ = long(made)
    assert np.array_equal(frames, plain)
    assert made.beside == "writing"


def test_a_failure_beside_holds_nothing_of_the_device(engine: Load) -> None:
    made = engine(BESIDE)
    made._decode = failing(made._decode, 1)  # type: ignore[method-assign]
    latents = torch.zeros(1, 16, 2, 8, 8)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        made.decode_beside(latents)()
    frames = []
    trace = raised.value.__traceback__
    while trace:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "fail" not in frames
    assert raised.value is FULL
