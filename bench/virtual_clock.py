"""A device that takes time but does nothing: block swap's schedule, timed exactly and without a GPU.

    python -m bench.virtual_clock [--write]

prints, for cards, weights and caps of GPU memory, the seconds of a step at 640x608: of the swap, of the longer of
computation and copies alone, and of a swap that waits for every tensor. A model, not a measurement.

Buffers lie on the meta device, so a model of any size fits. Computation and copies are two queues, as on a GPU: a copy
waits for the mark it was given, the computation waits for a ticket.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.machine import RESULTS
from diffusers_helper.memory.swap import BlockSwap
from diffusers_helper.memory.transport import Fill, untouched

GB = 10**9
DOUBLE, SINGLE = 226_548_224, 113_266_944
"""Weights of a block of the 13B transformer without its modulation."""
MODULATION = 2 * 56_641_536, 28_320_768
STEPS = 4
CAPS_GB = (6, 8, 12, 16, 24)
BESIDE_THE_BLOCKS = int(3.3 * GB)
"""What a cap also holds: embedders, activations, CUDA itself."""
PAGEABLE, SECONDS_PER_COPY = 8 * GB, 2e-5
WEIGHTS = {"int8": (1, False), "16 bits": (2, False), "16 bits, without table": (2, True)}
"""What the weights are kept in -> bytes per weight, and whether the modulation is among them."""


@dataclass(frozen=True)
class Card:
    """What a card does: seconds of computation in a step at 640x608, and its bus in bytes per second."""

    name: str
    step_seconds: float
    bus: float


CARDS = (
    Card("3060, PCIe 4 x16", 19.4, 25 * GB),
    Card("3060, PCIe 3 x16", 19.4, 12 * GB),
    Card("4090, PCIe 4 x16", 3.0, 25 * GB),
    Card("H100, PCIe 4 x16", 0.76, 25 * GB),
    Card("H100, PCIe 5 x16", 0.76, 50 * GB),
)


@dataclass
class VirtualTransport:
    """A transport whose clocks are numbers, in seconds.

    Attributes:
        bytes_per_second: of the bus.
        now: when the computation asked for so far will have ended.
        copied: when the copies begun so far will have ended.
    """

    bytes_per_second: float
    now: float = 0.0
    copied: float = 0.0
    device: torch.device = field(default_factory=lambda: torch.device("meta"))

    def compute(self, seconds: float) -> None:
        """Let the device compute."""
        self.now += seconds

    def host_buffer(self, size: int, fill: Fill = untouched) -> Tensor:
        buffer = torch.empty(size, dtype=torch.uint8, device="meta")
        fill(buffer)
        return buffer

    def free_host_buffer(self, buffer: Tensor) -> None:
        """Nothing to free."""

    def device_buffer(self, size: int) -> Tensor:
        return self.host_buffer(size)

    def mark(self) -> float:
        return self.now

    def begin(self, source: Tensor, target: Tensor, after: float | None) -> float:
        self.copied = max(self.copied, after or 0.0) + source.nbytes / self.bytes_per_second
        return self.copied

    def wait(self, ticket: float) -> None:
        self.now = max(self.now, ticket)

    def synchronize(self) -> None:
        self.now = max(self.now, self.copied)

    def close(self) -> None:
        """Nothing is held."""


def blocking_swap_seconds(
    streamed: Iterable[nn.Module], compute_seconds: float, pageable_bytes_per_second: float, seconds_per_copy: float
) -> float:
    """A step of a swap that copies tensor by tensor from ordinary memory, and waits for each."""
    tensors = [tensor for block in streamed for tensor in block.parameters()]
    return compute_seconds + sum(t.nbytes / pageable_bytes_per_second + seconds_per_copy for t in tensors)


def block_of(size: int, tensors: int) -> nn.Module:
    """A block of ``size`` bytes on the meta device."""
    parts = [torch.empty(size // tensors, dtype=torch.uint8, device="meta") for _ in range(tensors)]
    return nn.ParameterList(nn.Parameter(part, requires_grad=False) for part in parts)


def full_size(bytes_per_weight: int, modulation: bool) -> list[nn.Module]:
    """The 13B transformer's 20 double and 40 single blocks."""
    double, single = DOUBLE * bytes_per_weight, SINGLE * bytes_per_weight
    if modulation:
        double, single = double + 2 * MODULATION[0], single + 2 * MODULATION[1]
    return [*(block_of(double, 24) for _ in range(20)), *(block_of(single, 14) for _ in range(40))]


@dataclass(frozen=True)
class SwappedStep:
    """Seconds of a step once settled; of the longer of computation and copies alone; of a swap that waits.

    ``bytes_moved`` by STEPS steps.
    """

    taken: float
    ideal: float
    blocking: float
    bytes_moved: int
    swap: BlockSwap


def swapped_step(blocks: list[nn.Module], card: Card, cap_gb: int) -> SwappedStep:
    """A step with the blocks that ``cap_gb`` has room for on the card."""
    clock = VirtualTransport(card.bus)
    sizes = [sum(p.nbytes for p in block.parameters()) for block in blocks]
    swap = BlockSwap(blocks, clock, max(cap_gb * GB - BESIDE_THE_BLOCKS - 3 * max(sizes), 0))
    for step in range(2 + STEPS):
        if step == 2:
            began, before = clock.now, swap.bytes_moved
        for _ in swap():
            clock.compute(card.step_seconds / len(blocks))
    streamed = [block for index, block in enumerate(blocks) if index not in swap.resident]
    blocking = blocking_swap_seconds(streamed, card.step_seconds, PAGEABLE, SECONDS_PER_COPY)
    ideal = max(card.step_seconds, swap.bytes_per_pass / card.bus)
    return SwappedStep((clock.now - began) / STEPS, ideal, blocking, swap.bytes_moved - before, swap)


def table() -> Iterator[dict[str, Any]]:
    """A row for every card, weights and cap."""
    for card in CARDS:
        for weights, (bytes_per_weight, modulation) in WEIGHTS.items():
            for cap in CAPS_GB:
                step = swapped_step(full_size(bytes_per_weight, modulation), card, cap)
                figures = {
                    "taken": step.taken,
                    "ideal": step.ideal,
                    "to_ideal": step.taken / step.ideal,
                    "blocking": step.blocking,
                }
                row = {"card": card.name, "weights": weights, "cap_gb": cap}
                yield {**row, **{name: round(value, 3) for name, value in figures.items()}}


def main() -> None:
    """Print the table; with --write keep it."""
    rows = list(table())
    text = json.dumps({"command": "python -m bench.virtual_clock --write", "rows": rows}, indent=1)
    if "--write" in sys.argv[1:]:
        (RESULTS / "virtual_clock.json").write_text(text + "\n", encoding="utf-8")
    line = "{card:18} {weights:23} {cap_gb:3} GB  {taken:7.3f} s  x{to_ideal:.3f}  waiting {blocking:7.3f} s\n"
    for row in rows:
        sys.stdout.write(line.format(**row))


if __name__ == "__main__":
    main()
