"""A new way to decode is a class of a few lines and a line in the table: it is planned, chosen and used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusers_helper.engine import Engine
from diffusers_helper.events import Plan
from diffusers_helper.memory.costs import Constraints, Machine, PartSizes, Workload
from diffusers_helper.memory.units import GB
from diffusers_helper.models.load import load_parts
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.planning import planner_for
from diffusers_helper.vae import decoders
from diffusers_helper.vae.decoders import Decoder, VaeSource
from diffusers_helper.words import plain

from ..memory.support import FLOAT32, as_if_on, failing, video
from ..memory.test_degradation import are_said


class Grey:
    """Frames without a picture: no VAE, no time, no memory."""

    name, words, remark = "grey", plain("without a picture"), None
    cost_in_steps, uses_device = 0.1, False

    def device_bytes(self, sizes: PartSizes, workload: Workload, fused_attention: bool = True) -> int:
        return 0

    def ram_bytes(self, sizes: PartSizes, workload: Workload) -> int:
        return 0

    def __call__(self, vae: VaeSource, latents: Tensor) -> Tensor:
        _, _, frames, height, width = latents.shape
        return torch.zeros(1, 3, 4 * frames - 3, 8 * height, 8 * width, dtype=torch.float16)


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[Decoder], None]:
    """A line in the table."""
    listed = decoders._chunked

    def add(decoder: Decoder) -> None:
        monkeypatch.setattr(decoders, "_chunked", lambda *given: (*listed(*given), decoder))

    return add


@pytest.fixture
def load(quick_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Engine]]:
    """The quick checkpoint, with plans as for a card of 24 GB."""
    as_if_on(Machine(24 * GB, 23 * GB, 64 * GB, 60 * GB, 99 * GB), monkeypatch)
    checkpoint = find_checkpoint(str(quick_checkpoint), quick_checkpoint)
    with ExitStack() as made:

        def load() -> Engine:
            planner = planner_for(checkpoint, FLOAT32, Constraints(precision="as_is"), quick_checkpoint)
            return made.enter_context(Engine(checkpoint, FLOAT32, load_parts(checkpoint, FLOAT32), planner))

        yield load


def is_grey(frames: np.ndarray) -> bool:
    return int(frames.max()) - int(frames.min()) <= 2


def test_it_is_planned_chosen_and_used(
    add: Callable[[Decoder], None], load: Callable[[], Engine], photograph: Path, tmp_path: Path
) -> None:
    frames, events = video(load(), photograph, tmp_path / "a")
    assert not is_grey(frames)
    add(Grey())
    frames, events = video(load(), photograph, tmp_path / "b")
    assert is_grey(frames)
    (plan,) = (event for event in events if isinstance(event, Plan))
    assert ", decoding without a picture, with at most" in plan.memory


def test_one_that_costs_more_takes_over_when_memory_runs_out(
    add: Callable[[Decoder], None],
    load: Callable[[], Engine],
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dear = Grey()
    dear.cost_in_steps = 99.0
    add(dear)
    monkeypatch.setattr(decoders, "decode_in_chunks", failing(decoders.decode_in_chunks, 6))
    frames, events = video(load(), photograph, tmp_path)
    assert is_grey(frames)
    less = ("beside the sampling", "freed", "chunks of 2", "chunks of 1")
    assert are_said((*less, "on the CPU", "now clips are decoded without a picture."), events)


@pytest.mark.parametrize("memory_gb", [23, 3])
def test_its_memory_counts(
    memory_gb: int, add: Callable[[Decoder], None], load: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a card that has no room for it another decoder is planned."""

    class Large(Grey):
        def device_bytes(self, sizes: PartSizes, workload: Workload, fused_attention: bool = True) -> int:
            return 10 * GB

    add(Large())
    here = Machine(24 * GB, 23 * GB, 64 * GB, 60 * GB, 99 * GB)
    as_if_on(replace(here, vram_free=memory_gb * GB), monkeypatch)
    assert (load().planner.plan.decode == "grey") is (memory_gb == 23)
