"""Where the transformer's weights are, and how they come to the device that computes: a class for each way.

A *placement* is told when it is the transformer's turn and when it is another part's, and can be made smaller. Which
one it is follows from a memory plan, see ``place``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..words import Message
from .costs import SPARE_RAM, STAY_ON_GPU
from .host import read_ram
from .loan import Loan
from .moves import load_model_chunked, offload_model_from_device_for_memory_preservation
from .plan import MemoryPlan
from .swap import BlockSwap
from .tensors import bytes_of
from .transport import Transport, best_transport


@dataclass(frozen=True)
class Site:
    """What a transformer's placements share.

    Attributes:
        transformer: a module with ``blocks``, ``swap_blocks`` and ``block_source``, see FramePackTransformer.
        device: where it computes.
        keep_host_copy: of blocks that stay on the device while the others pass through, see ``BlockSwap``.
        make_transport: for the device.
    """

    transformer: Any
    device: torch.device
    keep_host_copy: bool = True
    make_transport: Callable[[torch.device], Transport] = best_transport


@dataclass(frozen=True)
class Stay:
    """What of the blocks stays on the device while the transformer samples."""

    blocks: int
    bytes: int


class Placement:
    """Weights that stay in RAM, where the CPU computes with them. The others say what they do otherwise."""

    def __init__(self, site: Site) -> None:
        self.site = site

    @property
    def resident(self) -> Stay:
        """What stays on the device while the transformer samples."""
        return Stay(0, 0)

    @property
    def swap(self) -> BlockSwap | None:
        """Through which the blocks pass; None where none do."""
        return None

    @property
    def idle_bytes(self) -> int:
        """Of the device, what ``leave`` would give back now."""
        return 0

    @property
    def copies(self) -> Message | None:
        """What a step copies to the device and how long that takes; None where nothing is copied."""
        return None

    def follow(self, plan: MemoryPlan) -> Placement:
        """The placement by another plan."""
        return place(self.site, plan)

    def come(self) -> None:
        """It is the transformer's turn."""

    def leave(self) -> None:
        """It is another part's turn: give back of the device what need not be copied back."""

    def shrink(self) -> Placement | None:
        """A placement that keeps half of the resident blocks on the device; None where that cannot be done."""
        return None

    def close(self) -> None:
        """An ordinary model again: in RAM, or where it is for good. Copies end first, then the device's memory goes,
        then locks, then threads and streams."""


class Resident(Placement):
    """The whole transformer is on the device, for good."""

    def __init__(self, site: Site, packed: bool) -> None:
        """``packed`` by bitsandbytes: its blocks cannot be swapped."""
        super().__init__(site)
        self._packed = packed
        load_model_chunked(site.transformer, site.device)

    @property
    def resident(self) -> Stay:
        return _all_blocks(self.site)

    def shrink(self) -> Placement | None:
        """Where RAM has room for what is on the device now."""
        if self._packed or self.resident.bytes + SPARE_RAM > read_ram().free:
            return None
        return Swapped(self.site, _half(self.resident))


class Lent(Placement):
    """What bitsandbytes has packed lives in RAM, and is on the device as a whole in its turn."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        offload_model_from_device_for_memory_preservation(site.transformer, site.device, aggressive=True)
        self._loan = Loan(site.transformer)

    @property
    def resident(self) -> Stay:
        return _all_blocks(self.site)

    @property
    def idle_bytes(self) -> int:
        return self._loan.bytes_away

    def follow(self, plan: MemoryPlan) -> Placement:
        """It stays lent: a plan by which it need not leave leaves it where it is."""
        return self

    def come(self) -> None:
        self._loan.go(self.site.device)

    def leave(self) -> None:
        self._loan.leave()

    def close(self) -> None:
        self._loan.leave()


class Swapped(Placement):
    """Blocks pass through the device, and some stay there; all else of the transformer is there for good."""

    def __init__(self, site: Site, resident_bytes: int) -> None:
        """From RAM, or from the device. ``resident_bytes``: of blocks that may stay."""
        super().__init__(site)
        self._transport = site.make_transport(site.device)
        try:
            self._swap: BlockSwap = site.transformer.swap_blocks(
                self._transport, resident_bytes, keep_host_copy=site.keep_host_copy
            )
        except BaseException:
            self._transport.close()
            raise

    @property
    def swap(self) -> BlockSwap:
        return self._swap

    @property
    def resident(self) -> Stay:
        return Stay(len(self._swap.resident), self._swap.resident_bytes)

    @property
    def idle_bytes(self) -> int:
        return self._swap.idle_bytes

    @property
    def copies(self) -> Message | None:
        size, speed = self._swap.bytes_per_pass, self._swap.bus_speed
        return Message("memory.copies", size=size, seconds=size / speed, speed=int(speed)) if size else None

    def follow(self, plan: MemoryPlan) -> Placement:
        """It stays swapped: a plan by which it need not be lets all blocks stay."""
        self._swap.limit(_allowed_bytes(self.site, plan))
        return self

    def leave(self) -> None:
        self._swap.release_idle()

    def shrink(self) -> Placement | None:
        if not self._swap.resident:
            return None
        self._swap.limit(_half(self.resident))
        return self

    def close(self) -> None:
        self._swap.close()
        self.site.transformer.block_source = None
        self._transport.close()


def place(site: Site, plan: MemoryPlan) -> Placement:
    """What the plan says; raises OutOfMemory, or what a device says that is too small."""
    where, packed = plan.residency["transformer"], plan.precision in STAY_ON_GPU
    if where == "cpu":
        return Placement(site)
    if where == "gpu":
        return Resident(site, packed)
    return Lent(site) if packed else Swapped(site, _allowed_bytes(site, plan))


def _allowed_bytes(site: Site, plan: MemoryPlan) -> int:
    """Of blocks that stay; where all are to, no rounding of the plan keeps one away."""
    return sys.maxsize if plan.resident_blocks == len(site.transformer.blocks) else plan.resident_bytes


def _all_blocks(site: Site) -> Stay:
    blocks = site.transformer.blocks
    return Stay(len(blocks), sum(map(bytes_of, blocks)))


def _half(stay: Stay) -> int:
    """Bytes that may stay where half of the blocks do."""
    return stay.bytes // 2 if stay.blocks > 1 else 0
