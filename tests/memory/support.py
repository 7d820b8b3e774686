"""What tests of memory share: plans by which parts move although there is no GPU, and who holds what.

The CPU plays the device. What is "on it" is known from the loans that are away, and from the buffers that a transport
has made and that somebody still holds.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusers_helper import planning
from diffusers_helper.engine import Engine
from diffusers_helper.events import Event, Finished
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.memory import vram
from diffusers_helper.memory.candidates import Situation
from diffusers_helper.memory.costs import Constraints, Machine, PartSizes, Place, Workload
from diffusers_helper.memory.plan import MemoryPlan, plan_memory
from diffusers_helper.memory.planner import Planner
from diffusers_helper.memory.transport import Fill, ThreadTransport, untouched
from diffusers_helper.models.load import Compute
from diffusers_helper.models.table import WEIGHTS_PARTS, Checkpoint
from diffusers_helper.planning import planner_for
from diffusers_helper.request import Request
from diffusers_helper.vae.decoders import decoders

FLOAT32 = Compute(torch.device("cpu"), torch.float32, torch.float32, torch.float32, "exact")
REQUEST = {"prompt": "the camera pans left", "seconds": 1.0, "steps": 2, "teacache": False}
Change = Callable[[MemoryPlan], MemoryPlan]
DECODERS = decoders()
SOME = {"resident_blocks": 4, "resident_bytes": 2**24, "decode": "chunks_4"}
FULL = torch.OutOfMemoryError("full")


def moving(transformer: Place, vae: Place, **fields: Any) -> Change:
    """A plan by which parts move, as on a GPU."""
    residency: dict[str, Place] = dict.fromkeys(WEIGHTS_PARTS, "swapped")
    return lambda plan: replace(plan, residency={**residency, "transformer": transformer, "vae": vae}, **fields)


def unchanged(plan: MemoryPlan) -> MemoryPlan:
    """All on the CPU."""
    return plan


STAYS, SWAPPED = moving("gpu", "gpu", decode="chunks_4"), moving("swapped", "gpu", **SOME)
PACKED = moving("swapped", "swapped", precision="bnb4", take_turns=True, decode="chunks_4")


def changed_planner(checkpoint: Checkpoint, compute: Compute, change: Change) -> Planner:
    """One whose plans are changed before they are carried out."""
    planner = planner_for(checkpoint, compute, Constraints(precision="as_is"), Path("hf_download"))
    plan_video, planner.plan = planner.for_workload, change(planner.plan)
    planner.for_workload = lambda *given: change(plan_video(*given))  # type: ignore[method-assign]
    return planner


def video(made: Engine, photograph: Path, folder: Path) -> tuple[np.ndarray, list[Event]]:
    """Frames and events of a short one."""
    size = made.checkpoint.buckets[0]
    request = Request.parse({"picture": str(photograph), "size": f"{size[1]}x{size[0]}", "kind": "f1", **REQUEST})
    events = list(generate(request, made, folder))
    assert isinstance(events[-1], Finished), events[-1]
    return read_frames(Path(events[-1].path or "")), events


def made_request(photograph: Path) -> Request:
    return Request.parse({"picture": str(photograph), "seconds": 1.0, "steps": 2, "prompt": "-"})


def failing(work: Callable[..., Any], times: int, at: int = 0, failure: BaseException = FULL) -> Callable[..., Any]:
    """``work`` that runs out of memory at its call ``at``, and again when it is tried again, ``times`` in all."""
    calls = iter(range(1000))

    def fail(*arguments: Any, **named: Any) -> Any:
        if at <= next(calls) < at + times:
            raise failure
        return work(*arguments, **named)

    return fail


def as_if_on(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plans be made for another machine."""
    monkeypatch.setattr(planning, "probe_machine", lambda compute, folder: here)
    monkeypatch.setattr(vram, "reclaimable_bytes", lambda device: here.vram_free)


def plan_on(machine: Machine, parts: PartSizes, workload: Workload, constraints: Constraints) -> MemoryPlan:
    """With the decoders that there are."""
    return plan_memory(Situation(machine, parts, workload, constraints, tuple(DECODERS.values())))


class CountingTransport(ThreadTransport):
    """Knows how many bytes its buffers hold that somebody still has, on the device and on the host."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.device_bytes = self.host_bytes = 0
        self.closed = False

    def device_buffer(self, size: int) -> Tensor:
        buffer = super().device_buffer(size)
        self.device_bytes += size
        weakref.finalize(buffer.untyped_storage(), self._device_left, size)
        return buffer

    def host_buffer(self, size: int, fill: Fill = untouched) -> Tensor:
        self.host_bytes += size
        return super().host_buffer(size, fill)

    def free_host_buffer(self, buffer: Tensor) -> None:
        self.host_bytes -= buffer.nbytes
        super().free_host_buffer(buffer)

    def close(self) -> None:
        self.closed = True
        super().close()

    def _device_left(self, size: int) -> None:
        self.device_bytes -= size
