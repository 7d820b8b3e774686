"""Plans carried out on the CPU as if it were a device of its own: whatever moves, the video is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_helper import engine as engines
from diffusers_helper.engine import Engine
from diffusers_helper.events import Plan
from diffusers_helper.memory import placement, residency, vram
from diffusers_helper.memory.costs import SPARE_RAM
from diffusers_helper.memory.host import Ram
from diffusers_helper.memory.placement import Lent, Resident, Site, Swapped
from diffusers_helper.memory.residency import Residency
from diffusers_helper.memory.tensors import bytes_of
from diffusers_helper.memory.units import GB
from diffusers_helper.models.load import choose_compute, load_parts
from diffusers_helper.models.table import Checkpoint

from .conftest import Load
from .support import (
    FLOAT32,
    PACKED,
    SOME,
    STAYS,
    SWAPPED,
    Change,
    CountingTransport,
    changed_planner,
    failing,
    moving,
    video,
)

TURNS = moving("swapped", "swapped", resident_blocks=3, resident_bytes=2**24, take_turns=True)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(moving("gpu", "gpu"), id="all stay"),
        pytest.param(moving("swapped", "gpu", resident_blocks=0, resident_bytes=0), id="all blocks pass through"),
        pytest.param(TURNS, id="turns"),
    ],
)
def test_the_video_is_the_same_wherever_the_weights_are(
    change: Change, engine: Load, photograph: Path, plain: np.ndarray, tmp_path: Path
) -> None:
    frames, events = video(engine(change), photograph, tmp_path)
    assert np.array_equal(frames, plain)
    (said,) = [event for event in events if isinstance(event, Plan)]
    assert "GB free RAM" in said.memory


class House:
    """A residency, and the transport that it has made, if any."""

    def __init__(self, checkpoint: Checkpoint, change: Change, small_host_copy: bool) -> None:
        self.parts = load_parts(checkpoint, FLOAT32)
        self.transport = CountingTransport(torch.device("cpu"))
        site = Site(self.parts.transformer, torch.device("cpu"), not small_host_copy, lambda device: self.transport)
        plan = changed_planner(checkpoint, FLOAT32, change).plan
        self.residency = Residency(site, self.parts.beside_transformer(), plan)

    @property
    def held(self) -> int:
        """Bytes that would be on the device."""
        return sum(loan.bytes_away for loan in self.residency.loans.values()) + self.transport.device_bytes

    def run_blocks(self) -> None:
        """A pass over the blocks."""
        for _ in self.parts.transformer.block_source():
            pass

    def use(self) -> tuple[int, int]:
        """After the VAE and a pass over the blocks: what is held, and what the text encoder needs."""
        with self.residency.visit("vae"):
            self.run_blocks()
        return self.held, bytes_of(self.parts.text_encoder)

    def has_room_for(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(residency, "ROOM_TO_WORK_BYTES", 0)
        monkeypatch.setattr(vram, "unused_bytes", lambda device: size - self.held)

    def encoder_is_lent(self) -> bool:
        """While it is visited: as a whole, or on demand."""
        lent = self.residency.loans["text_encoder"].away
        assert lent is (type(self.parts.text_encoder.embed_tokens).__name__ == "Embedding")
        return lent


@pytest.fixture
def house(checkpoint: Checkpoint) -> Iterator[Callable[..., House]]:
    with ExitStack() as made:

        def build(change: Change, small_host_copy: bool = False) -> House:
            found = House(checkpoint, change, small_host_copy)
            made.enter_context(closing(found.residency))
            return found

        yield build


def test_encoders_leave_after_use_and_a_vae_that_stays_with_the_clearing(house: Callable[..., House]) -> None:
    made = house(moving("swapped", "gpu")).residency
    with made.visit("text_encoder"):
        assert made.loans["text_encoder"].away
    assert not made.loans["text_encoder"].away
    with made.visit("vae"):
        pass
    assert made.loans["vae"].away, "it stays for the next clip"
    made.clear()
    assert not made.loans["vae"].away


@pytest.mark.parametrize("small_host_copy", [False, True])
def test_what_can_never_fit_evicts_nothing(
    house: Callable[..., House], small_host_copy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house(SWAPPED, small_host_copy)
    before, needed = made.use()
    made.has_room_for(max(needed - 1, before) if needed > before else needed - 1, monkeypatch)
    with made.residency.visit("text_encoder"):
        assert not made.encoder_is_lent()
    assert made.held == before


def test_what_fits_after_the_others_have_left_makes_them_leave(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house(SWAPPED)
    before, needed = made.use()
    made.has_room_for(max(needed, before), monkeypatch)
    with made.residency.visit("text_encoder"):
        assert made.held == needed
        assert made.encoder_is_lent()
    assert made.held == 0


def test_a_small_host_copy_is_not_made_large_again(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for an encoder nor by the clearing; with fewer resident blocks as much comes home as leaves."""
    made = house(SWAPPED, small_host_copy=True)
    made.use()
    without, all_blocks = made.transport.host_bytes, sum(map(bytes_of, made.parts.transformer.blocks))
    assert without < all_blocks
    made.has_room_for(bytes_of(made.parts.text_encoder) + 1000, monkeypatch)
    with made.residency.visit("text_encoder"):
        assert made.transport.host_bytes == without
    made.residency.clear()
    assert made.transport.host_bytes == without
    before = made.residency.plan.resident_bytes
    assert made.residency.shrink()
    assert made.transport.host_bytes == without + before - made.residency.plan.resident_bytes


def test_closing_makes_no_copies_in_ram(house: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of blocks without one: they would be as large as the GPU's share, locked, and thrown away."""
    made = house(SWAPPED, small_host_copy=True)
    made.use()
    stayed = made.residency.plan.resident_bytes
    monkeypatch.setattr(made.transport, "host_buffer", None)
    made.residency.close()
    assert made.transport.host_bytes == 0
    assert 0 < made.transport.device_bytes == stayed, "they go with their modules"


def test_a_part_that_stayed_leaves_when_the_next_plan_says_so(house: Callable[..., House]) -> None:
    made = house(SWAPPED).residency
    with made.visit("vae"):
        pass
    assert made.loans["vae"].away
    made.follow(replace(made.plan, residency={**made.plan.residency, "vae": "swapped"}))
    assert not made.loans["vae"].away


def test_packed_weights_take_turns_however_plans_change(house: Callable[..., House]) -> None:
    made = house(moving("gpu", "gpu", precision="bnb4")).residency
    assert isinstance(made.transformer, Resident)
    assert not made.shrink(), "packed weights cannot be swapped by blocks"
    alone = replace(made.plan, take_turns=False)
    turns = replace(alone, take_turns=True, residency={**alone.residency, "transformer": "swapped"})
    for plan in (turns, alone, turns):
        made.follow(plan)
        made.before_sampling()
        assert isinstance(made.transformer, Lent)
        assert made.transformer.idle_bytes > 0
        made.before_decoding()
        assert (made.transformer.idle_bytes > 0) is (plan is alone)
    assert not made.shrink()


def test_a_plan_counts_when_it_is_carried_out(house: Callable[..., House]) -> None:
    found = house(STAYS)
    made, swap_blocks = found.residency, found.parts.transformer.swap_blocks
    before = made.plan
    elsewhere = {**before.residency, "transformer": "swapped"}
    plan = replace(before, residency=elsewhere, resident_blocks=0, resident_bytes=0)
    found.parts.transformer.swap_blocks = failing(swap_blocks, 1)
    with pytest.raises(torch.OutOfMemoryError):
        made.follow(plan)
    assert made.plan is before
    assert isinstance(made.transformer, Resident)
    assert found.transport.closed
    found.transport = CountingTransport(torch.device("cpu"))
    made.follow(plan)
    assert made.plan == plan
    assert isinstance(made.transformer, Swapped)


def test_blocks_that_are_there_for_good_stay_where_ram_has_no_room(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house(STAYS).residency
    needed = made.plan.resident_bytes + SPARE_RAM
    monkeypatch.setattr(placement, "read_ram", lambda: Ram(2 * GB, needed - 1))
    assert not made.shrink()
    monkeypatch.setattr(placement, "read_ram", lambda: Ram(2 * GB, needed))
    assert made.shrink()


def test_the_blocks_that_stay_are_told_as_they_are(
    engine: Load, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as they were planned; and how long the others take to pass through."""
    monkeypatch.setattr("diffusers_helper.memory.swap.bytes_per_second", lambda transport, size: 25.1e9)
    made = engine(moving("swapped", "gpu", precision="int8", **SOME))
    _, events = video(made, photograph, tmp_path)
    (plan,) = (event for event in events if isinstance(event, Plan))
    assert plan.memory.startswith(
        "int8 weights, 5 of 8 blocks on the GPU, the others swapped in from RAM, with at most "
    )
    assert plan.memory.endswith(" A step copies 0.0 GB, which takes 0.0 s at the measured 25.1 GB/s.")


@pytest.mark.parametrize("change", [moving("swapped", "gpu", take_turns=True, **SOME), PACKED])
def test_where_parts_take_turns_the_transformer_is_there_for_its_own_only(
    change: Change, engine: Load, photograph: Path, tmp_path: Path
) -> None:
    made, there = engine(change), {"sampling": set[bool](), "decoding": set[bool]()}

    def watched(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            result = work(*arguments, **named)
            there[stage].add(made.residency.transformer.idle_bytes > 0)
            return result

        return noted

    transformer, vae = made.parts.transformer, made.parts.vae
    transformer.forward = watched("sampling", transformer.forward)  # type: ignore[method-assign]
    latents_in = vae.post_quant_conv
    latents_in.forward = watched("decoding", latents_in.forward)  # type: ignore[method-assign]
    video(made, photograph, tmp_path)
    assert there == {"sampling": {True}, "decoding": {False}}


def test_a_closed_engine_holds_nothing(
    engine: Load, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transport has ended, and its blocks are ordinary modules."""
    transports: list[CountingTransport] = []

    def counting(device: torch.device) -> CountingTransport:
        transports.append(CountingTransport(device))
        return transports[-1]

    monkeypatch.setattr(engines, "Site", partial(Site, make_transport=counting))
    made = engine(SWAPPED)
    video(made, photograph, tmp_path)
    (transport,) = transports
    assert transport.device_bytes > 0
    made.close()
    assert (transport.device_bytes, transport.host_bytes, transport.closed) == (0, 0, True)
    assert made.parts.transformer.block_source is None
    with pytest.raises(RuntimeError, match="after shutdown"):
        transport.synchronize()
    made.close()


@pytest.mark.gpu
def test_on_a_gpu_the_video_is_the_same_wherever_the_weights_are(
    checkpoint: Checkpoint, photograph: Path, tmp_path: Path
) -> None:
    """Plans for less and less memory; and everything leaves the GPU that should."""
    videos = []
    for number, change in enumerate(
        (
            lambda plan: plan,
            moving("swapped", "gpu", resident_blocks=0, resident_bytes=0),
            moving("swapped", "swapped", resident_blocks=3, resident_bytes=2**22, take_turns=True),
        )
    ):
        compute = choose_compute()
        planner = changed_planner(checkpoint, compute, change)
        made = Engine(checkpoint, compute, load_parts(checkpoint, compute), planner)
        videos.append(video(made, photograph, tmp_path / str(number))[0])
        assert not made.residency.loans["text_encoder"].away
        made.close()
    assert np.array_equal(videos[0], videos[1])
    assert np.array_equal(videos[0], videos[2])
