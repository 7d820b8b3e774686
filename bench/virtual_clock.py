"""A device that takes time but does nothing: block swap's schedule, timed exactly and without a GPU.

Buffers lie on the meta device, so a model of any size fits. Computation and copies are two queues, as on a GPU: a copy
waits for the mark it was given, the computation waits for a ticket.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


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

    def host_buffer(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device="meta")

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
