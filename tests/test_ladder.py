"""What happens when memory runs out, from wherever the weights are: the video is the same, and each rung is told.

The CPU plays the device. What "is on it" is known by who holds what: loans that are away, blocks that are resident.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_helper import engine as engines
from diffusers_helper import residency
from diffusers_helper.engine import Engine, SectionDenoiser
from diffusers_helper.events import Event, Finished, Notice, Plan
from diffusers_helper.generate import generate
from diffusers_helper.machine import Ram
from diffusers_helper.memory import GB
from diffusers_helper.memory_plan import MemoryPlan
from diffusers_helper.memory_ways import Machine, Wishes
from diffusers_helper.models.load import load_parts
from diffusers_helper.models.table import Checkpoint
from diffusers_helper.request import Request
from diffusers_helper.residency import Planner, Residency
from diffusers_helper.transport import ThreadTransport

from .parity.engine import PackEngine
from .test_residency import FLOAT32, checkpoint, engine, moving, pack_request, plain, video

__all__ = ["checkpoint", "plain"]

FULL = torch.OutOfMemoryError("full")
SOME = {"resident_blocks": 4, "resident_bytes": 2**24, "decode": "gpu"}
STAYS, SWAPPED = moving("gpu", "gpu", decode="gpu"), moving("swapped", "gpu", **SOME)
PACKED = moving("swapped", "swapped", precision="bnb4", take_turns=True, decode="gpu")


def failing(work: Callable[..., Any], times: int, at: int = 0) -> Callable[..., Any]:
    """``work`` that runs out of memory at its call ``at``, and again when it is tried again, ``times`` in all."""
    calls = iter(range(1000))

    def fail(*arguments: Any, **named: Any) -> Any:
        if at <= next(calls) < at + times:
            raise FULL
        return work(*arguments, **named)

    return fail


def told(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice) and "ran out of memory" in event.message]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(STAYS, ["freed", "only 4 of", "only 1 of"], id="from the device for good"),
        pytest.param(SWAPPED, ["freed", "only 2 of", "only 1 of", "only 0 of"], id="from the swap"),
        pytest.param(PACKED, ["freed"], id="packed, taking turns"),
    ],
)
def test_sampling_goes_down_its_ladder(
    change: Callable[[MemoryPlan], MemoryPlan],
    words: list[str],
    checkpoint: Checkpoint,
    photograph: Path,
    plain: np.ndarray,
    tmp_path: Path,
) -> None:
    made = engine(checkpoint, change)
    transformer = made._parts.transformer
    short = failing(transformer.forward, len(words), at=1)

    def forward(**inputs: Any) -> Any:
        packed = made._residency._packed
        assert packed is None or packed.away, "what a rung sent away comes back"
        return short(**inputs)

    transformer.forward = forward  # type: ignore[method-assign]
    frames, events = video(made, photograph, tmp_path)
    assert np.array_equal(frames, plain)
    said = told(events)
    assert [each in message for each, message in zip(words, said, strict=True)] == [True] * len(words), said


def test_encoding_goes_down_its_ladder_to_weights_on_call(
    checkpoint: Checkpoint, photograph: Path, plain: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, seen = engine(checkpoint, SWAPPED), []
    features = failing(engines.llama_features, 2)

    def watched(text: str, tokenizer: Any, encoder: Any) -> Any:
        seen.append(type(encoder.embed_tokens).__name__)
        return features(text, tokenizer, encoder)

    monkeypatch.setattr(engines, "llama_features", watched)
    frames, events = video(made, photograph, tmp_path)
    assert np.array_equal(frames, plain)
    assert seen == ["Embedding", "Embedding", "DynamicSwap_Embedding"]
    assert ["freed" in told(events)[0], "come to it as they are used" in told(events)[1]] == [True, True]
    assert not made._residency._loans["text_encoder"].away
    made.prepare(made_request(photograph), 64, 64)
    assert made._encode_on_call, "another video does not try again what failed"
    assert "freed" in (made.use_less_memory("encode") or "")
    assert made.use_less_memory("encode") is None


def made_request(photograph: Path) -> Request:
    return Request.parse({"picture": str(photograph), "seconds": 1.0, "steps": 2, "prompt": "-"})


@pytest.mark.parametrize("change", [STAYS, SWAPPED, PACKED])
def test_decoding_goes_down_its_ladder_to_a_copy_on_the_cpu(
    change: Callable[[MemoryPlan], MemoryPlan],
    checkpoint: Checkpoint,
    photograph: Path,
    plain: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy is made of the weights in RAM when none are on the device, and once for a video."""
    made, copied = engine(checkpoint, change), list[bool]()

    def deepcopy(model: Any) -> Any:
        copied.append(made._residency._loans["vae"].away)
        return original(model)

    original = engines.deepcopy
    monkeypatch.setattr(engines, "deepcopy", deepcopy)
    tiles, decode = list[int](), failing(engines.decode_clip, 4)

    def noted(vae: Any, latents: Any, tiled: bool, tile: int) -> Any:
        tiles.append(tiled * tile)
        return decode(vae, latents, tiled, tile)

    monkeypatch.setattr(engines, "decode_clip", noted)
    frames, events = video(made, photograph, tmp_path)
    assert np.array_equal(frames, plain)
    words = ("freed", "in tiles", "in small tiles", "on the CPU")
    assert [each in message for each, message in zip(words, told(events), strict=True)] == [True] * 4
    assert tiles == [0, 0, 256, 128, 256], "whole, whole again, in tiles of less and less; and on the CPU"
    made.decode(torch.zeros(1, 16, 1, 4, 4))
    assert copied == [False]
    assert made._residency.plan.take_turns, "for the sections to come"


@pytest.mark.parametrize("change", [moving("swapped", "gpu", take_turns=True, **SOME), PACKED])
def test_where_parts_take_turns_the_transformer_is_there_for_its_own_only(
    change: Callable[[MemoryPlan], MemoryPlan],
    checkpoint: Checkpoint,
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = engine(checkpoint, change)
    house, there = made._residency, {"sampling": set[bool](), "decoding": set[bool]()}

    def is_there() -> bool:
        return house._packed.away if house._packed else bool(house._swap and house._swap._resident)

    def watched(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            result = work(*arguments, **named)
            there[stage].add(is_there())
            return result

        return noted

    transformer = made._parts.transformer
    transformer.forward = watched("sampling", transformer.forward)  # type: ignore[method-assign]
    monkeypatch.setattr(engines, "decode_clip", watched("decoding", engines.decode_clip))
    video(made, photograph, tmp_path)
    assert there == {"sampling": {True}, "decoding": {False}}


@pytest.fixture
def planned(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The checkpoint with plans as they are made for a card of 24 GB."""
    here = Machine(24 * GB, 23 * GB, 64 * GB, 60 * GB, 99 * GB)
    monkeypatch.setattr(residency, "look", lambda compute, folder: here)
    monkeypatch.setattr(residency, "_vram_free", lambda device: here.vram_free)
    planner = Planner(checkpoint, FLOAT32, Wishes(precision="as_is"), Path("hf_download"))
    return Engine(checkpoint, FLOAT32, load_parts(checkpoint, FLOAT32), planner)


def test_a_vae_that_stayed_does_not_come_back_where_sampling_ran_out(planned: Engine, photograph: Path) -> None:
    """Neither in this video nor in the next: there might be no other rung."""
    vae, latents = planned._residency._loans["vae"], torch.zeros(1, 16, 1, 4, 4)
    planned.decode(latents)
    assert vae.away
    planned.use_less_memory("sample")
    for _ in range(2):
        assert not vae.away
        planned.decode(latents)
        assert not vae.away
        assert planned.prepare(made_request(photograph), 64, 64).residency["vae"] == "swapped"


def test_later_videos_begin_on_the_rung_where_one_ended(planned: Engine, photograph: Path) -> None:
    """Of each ladder by itself; what is free has stayed the same."""
    made, request = planned, made_request(photograph)
    first = made.prepare(request, 640, 640)
    assert (first.resident_blocks, first.take_turns, made._decode_how) == (8, False, "gpu")
    for _ in range(2):
        made.use_less_memory("sample")
    half = made._residency.plan.resident_bytes
    assert 0 < made.prepare(request, 640, 640).resident_bytes <= half < first.resident_bytes
    made.use_less_memory("decode")
    assert made.prepare(request, 640, 640).take_turns
    assert made._decode_how == "gpu", "it was only freed"
    for rung in ("tiled", "small_tiles", "cpu"):
        made.use_less_memory("decode")
        made.use_less_memory("decode")
        made.prepare(request, 640, 640)
        assert made._decode_how == rung


class Hesitant(PackEngine):
    """Runs out of memory once while a section's denoiser is made, and once when it begins."""

    def __init__(self) -> None:
        super().__init__("run_i2v")
        self.make, self.ready = failing(super().denoiser, 1), failing(lambda: None, 1)

    def use_less_memory(self, ladder: str) -> str | None:
        return f"less for {ladder}"

    def denoiser(self, *arguments: Any) -> SectionDenoiser:
        return replace(self.make(*arguments), ready=self.ready)


def test_what_comes_before_the_first_step_may_run_out_too(photograph: Path, tmp_path: Path) -> None:
    events = list(generate(pack_request(photograph), Hesitant(), tmp_path))
    assert isinstance(events[-1], Finished), events[-1]
    assert [event.message for event in events if isinstance(event, Notice)][-2:] == ["less for sample"] * 2


@pytest.fixture
def house(checkpoint: Checkpoint) -> Callable[..., Residency]:
    made: list[Engine] = []

    def build(change: Callable[[MemoryPlan], MemoryPlan], small_host_copy: bool = False) -> Residency:
        made.append(engine(checkpoint, change))
        if not small_host_copy:
            return made[-1]._residency
        parts, plan = engine(checkpoint, lambda plan: plan)._parts, made[-1]._planner.plan
        return Residency(parts, torch.device("cpu"), plan, True, ThreadTransport)

    return build


def held(house: Residency) -> int:
    """What would be on the device."""
    loans = sum(loan.bytes_away for loan in house._loans.values())
    blocks = sum(flat.nbytes for flat in house._swap._resident.values()) if house._swap else 0
    return loans + blocks + (house._swap._ring.buffer.nbytes if house._swap and house._swap._ring else 0)


def of_size(house: Residency, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "ROOM_TO_WORK_BYTES", 0)
    monkeypatch.setattr(residency, "_unused_vram", lambda device: size - held(house))


def in_use(house: Residency) -> tuple[int, int]:
    """After the VAE and a pass over the blocks: what is held, and what the text encoder needs."""
    with house.visit("vae"):
        list(house._swap())  # type: ignore[misc]
    return held(house), residency._bytes_of(house._parts.text_encoder)


@pytest.mark.parametrize("small_host_copy", [False, True])
def test_what_can_never_fit_evicts_nothing(
    house: Callable[..., Residency], small_host_copy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house(SWAPPED, small_host_copy)
    before, needed = in_use(made)
    of_size(made, max(needed - 1, before) if needed > before else needed - 1, monkeypatch)
    with made.visit("text_encoder"):
        assert type(made._parts.text_encoder.embed_tokens).__name__ == "DynamicSwap_Embedding"
    assert held(made) == before


def test_what_fits_after_the_others_have_left_makes_them_leave(
    house: Callable[..., Residency], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house(SWAPPED)
    before, needed = in_use(made)
    of_size(made, max(needed, before), monkeypatch)
    with made.visit("text_encoder"):
        assert held(made) == needed
        assert made._loans["text_encoder"].away
    assert held(made) == 0


def test_a_small_host_copy_is_not_made_large_again(
    house: Callable[..., Residency], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for an encoder nor on the first rung; with fewer resident blocks as much comes home as leaves."""
    made = house(SWAPPED, small_host_copy=True)
    in_use(made)
    assert made._swap is not None

    def without_copy() -> set[int]:
        return {index for index, block in enumerate(made._swap._blocks) if block.host is None}  # type: ignore[union-attr]

    resident = without_copy()
    assert resident == made._swap.resident
    of_size(made, residency._bytes_of(made._parts.text_encoder) + 1000, monkeypatch)
    with made.visit("text_encoder"):
        assert without_copy() == resident
    made.clear()
    assert without_copy() == resident
    assert made.fewer_resident_blocks()
    assert without_copy() == made._swap.resident & resident


def test_closing_makes_no_copies_in_ram(house: Callable[..., Residency], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of blocks without one: they would be as large as the GPU's share, locked, and thrown away."""
    made = house(SWAPPED, small_host_copy=True)
    in_use(made)
    swap = made._swap
    assert swap is not None
    monkeypatch.setattr(swap._transport, "host_buffer", None)
    made.close()
    assert (swap._resident, swap._ring) == ({}, None)


def test_a_part_that_stayed_leaves_when_the_next_plan_says_so(house: Callable[..., Residency]) -> None:
    made = house(SWAPPED)
    with made.visit("vae"):
        pass
    assert made._loans["vae"].away
    made.follow(replace(made.plan, residency={**made.plan.residency, "vae": "swapped"}))
    assert not made._loans["vae"].away


def test_packed_weights_take_turns_however_plans_change(house: Callable[..., Residency]) -> None:
    made = house(moving("gpu", "gpu", precision="bnb4"))
    alone = replace(made.plan, take_turns=False)
    turns = replace(alone, take_turns=True, residency={**alone.residency, "transformer": "swapped"})
    for plan in (turns, alone, turns):
        made.follow(plan)
        made.before_sampling()
        assert made._packed is not None
        assert made._packed.away
        made.before_decoding()
        assert made._packed.away is (plan is alone)
    assert made._swap is None
    assert not made.fewer_resident_blocks()


def test_a_plan_counts_when_it_is_carried_out(house: Callable[..., Residency], monkeypatch: pytest.MonkeyPatch) -> None:
    made = house(STAYS)
    before = made.plan
    monkeypatch.setattr(made, "_make_transport", failing(made._make_transport, 1))
    elsewhere = {**before.residency, "transformer": "swapped"}
    plan = replace(before, residency=elsewhere, resident_blocks=0, resident_bytes=0)
    with pytest.raises(torch.OutOfMemoryError):
        made.follow(plan)
    assert made.plan is before
    made.follow(plan)
    assert made.plan == plan


def test_blocks_that_are_there_for_good_stay_where_ram_has_no_room(
    house: Callable[..., Residency], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house(STAYS)
    monkeypatch.setattr(residency, "read_ram", lambda: Ram(GB, made.plan.resident_bytes))
    assert not made.fewer_resident_blocks()
    monkeypatch.setattr(residency, "read_ram", lambda: Ram(2 * GB, made.plan.resident_bytes + GB))
    assert made.fewer_resident_blocks()


def test_the_blocks_that_stay_are_told_as_they_are(
    checkpoint: Checkpoint, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as they were planned; and how long the others take to pass through."""
    words = "int8 weights, {resident_blocks} of 8 blocks on the GPU, the others swapped in from RAM."
    monkeypatch.setattr("diffusers_helper.swap.bytes_per_second", lambda transport, size: 25.1e9)
    made = engine(checkpoint, moving("swapped", "gpu", words=words, **SOME))
    _, events = video(made, photograph, tmp_path)
    (plan,) = (event for event in events if isinstance(event, Plan))
    swap = made._residency._swap
    assert swap is not None
    assert len(swap.resident) == 5
    assert plan.memory.startswith("int8 weights, 5 of 8 blocks on the GPU, the others swapped in from RAM. A step ")
    assert plan.memory.endswith("copies 0.0 GB, which takes 0.0 s at the measured 25.1 GB/s.")
