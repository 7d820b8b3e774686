"""Blocks whose weights pass through the device: each is copied there while the blocks before it compute.

    with BlockSwap(blocks, transport, resident_bytes) as swap:
        for block in swap():
            tokens = block(tokens)

A block's tensors lie in one flat host buffer, so a block is one copy. Resident blocks stay on the device, spread so
that the copies never bunch. The others go through a ring of bytes on the device; as many as fit are on their way, the
first blocks of the next pass included. Nothing is copied back, and nothing is copied when no pass is made, nor by one
that ends before a block has left the ring: what is there then is what the next pass begins with. Works on whatever
tensors a block has: 16 bits, int8, fp8.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from .transport import PROBE_BYTES, Transport, bytes_per_second

log = logging.getLogger(__name__)

ALIGNMENT_BYTES = 256
BLOCKS_IN_RING = 3
BlockSource = Callable[[], Generator[nn.Module, None, None]]


def choose_resident(sizes: Sequence[int], resident_bytes: int) -> frozenset[int]:
    """Which blocks stay on the device, so that what is left to copy is spread evenly over the blocks.

    Bresenham's line in bytes: after each block the copied bytes are as near as can be to their even share, where all
    blocks are taken to compute for the same time. So large blocks are the first to become resident. Room for
    less than two blocks may stay unused.

    Args:
        sizes: bytes of each block, in the order in which they run.
        resident_bytes: never exceeded.
    """
    rate = max(sum(sizes) - resident_bytes, 0) / max(len(sizes), 1)
    ahead = [done - rate * number for number, done in enumerate(accumulate(sizes), start=1)]
    scale = min(1.0, resident_bytes / max(*ahead, 1.0)) if ahead else 1.0
    resident, kept = list[int](), 0
    for index, size in enumerate(sizes):
        if kept + size <= min(ahead[index] * scale + 0.5, resident_bytes):
            resident.append(index)
            kept += size
    return frozenset(resident)


class PackedBlock:
    """A block whose tensors are views of one flat buffer, which may lie on the host or on the device."""

    def __init__(self, module: nn.Module, transport: Transport, stays: Collection[int]) -> None:
        """``stays``: ids of the tensors that are left alone."""
        self.module, self._transport = module, transport
        tensors = [t for t in (*module.parameters(), *module.buffers()) if id(t) not in stays]
        starts = list(accumulate((_padded(t.nbytes) for t in tensors), initial=0))
        self.size = starts[-1]
        self._places = list(zip(tensors, starts, strict=False))
        self.host: Tensor | None = transport.host_buffer(self.size, self._pack)

    def bind(self, flat: Tensor) -> None:
        """The block's tensors become views of ``flat``, [size] bytes."""
        for tensor, start in self._places:
            tensor.data = flat[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)

    def make_resident(self, keep_host_copy: bool) -> Tensor:
        """Copy it to the device, where it stays; returns its flat buffer there."""
        if self.host is None:
            raise RuntimeError("the block is resident already")
        flat = self._transport.device_buffer(self.size)
        self._transport.wait(self._transport.begin(self.host, flat, self._transport.mark()))
        self.bind(flat)
        if not keep_host_copy:
            self._transport.synchronize()
            self._transport.free_host_buffer(self.host)
            self.host = None
        return flat

    def bring_home(self, flat: Tensor | None = None) -> None:
        """Its tensors are the host's again; copied from the resident ``flat`` only if the host has none."""
        if self.host is None and flat is not None:
            self.host = self._transport.host_buffer(self.size, lambda buffer: buffer.copy_(flat))
        if self.host is not None:
            self.bind(self.host)

    def close(self) -> None:
        """The tensors stay where they are; the host buffer is an ordinary one, and no copy reads it any more."""
        if self.host is not None:
            self._transport.free_host_buffer(self.host)

    def _pack(self, flat: Tensor) -> None:
        for tensor, start in self._places:
            flat[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor.data)
        self.bind(flat)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@dataclass(frozen=True, eq=False)
class Copy:
    """A block on its way to, or in, the bytes ``start`` to ``end`` of the ring."""

    start: int
    end: int
    ticket: Any

    def overlaps(self, start: int, end: int) -> bool:
        return self.start < end and start < self.end


class Ring:
    """Bytes on the device that are given out in order and come back in order."""

    def __init__(self, buffer: Tensor, mark: Any) -> None:
        """``mark``: after it the buffer may be written; whoever had that memory before is done then."""
        self.buffer = buffer
        self._taken: deque[Copy] = deque()
        self._left = deque([(Copy(0, buffer.nbytes, None), mark)])
        self._head = 0

    def place(self, size: int) -> int | None:
        """Where the next ``size`` bytes go; None when there is no room yet."""
        start = self._head if self._head + size <= self.buffer.nbytes else 0
        if any(copy.overlaps(start, start + size) for copy in self._taken):
            return None
        return start

    def last_use(self, start: int, end: int) -> Any:
        """The mark after which these bytes may be written."""
        used = [mark for copy, mark in self._left if copy.overlaps(start, end)]
        return used[-1] if used else None

    def take(self, copy: Copy) -> None:
        """Reserve the bytes of ``copy``. Forgets earlier marks of bytes that overlap them: later copies are ordered
        behind this one anyway."""
        self._left = deque(entry for entry in self._left if not entry[0].overlaps(copy.start, copy.end))
        self._taken.append(copy)
        self._head = copy.end

    def give_back(self, copy: Copy, mark: Any) -> None:
        self._taken.remove(copy)
        self._left.append((copy, mark))


class BlockSwap:
    """An endless supply of blocks whose weights are on the device when they are handed out.

    Calling it makes one pass. One that is broken off costs nothing but the copies under way; nothing at all up to the
    first block that passes through, itself included, since the next pass begins with the same copies.

    Args:
        blocks: in the order in which they run.
        transport: how bytes get to the device.
        resident_bytes: so much of the device may be taken by blocks that stay there.
        ring_bytes: of the device, for blocks that pass through; at least one, three of the largest when left out.
        stays: modules within the blocks that belong on the device always, because they are used beside the passes.
        keep_host_copy: of resident blocks. Without it they leave the device only where ``limit`` says so.

    Attributes:
        bytes_moved: to the device, so far.
        resident: the numbers of the blocks that stay.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        transport: Transport,
        resident_bytes: int = 0,
        *,
        ring_bytes: int | None = None,
        stays: Sequence[nn.Module] = (),
        keep_host_copy: bool = True,
    ) -> None:
        for module in stays:
            module.to(transport.device)
        kept = {id(t) for module in stays for t in (*module.parameters(), *module.buffers())}
        self.bytes_moved = 0
        self._transport, self._keep_host_copy = transport, keep_host_copy
        self._blocks = [PackedBlock(block, transport, kept) for block in blocks]
        self._wanted_ring_bytes = ring_bytes
        self._ring: Ring | None = None
        self._resident: dict[int, Tensor] = {}
        self._under_way: deque[Copy] = deque()
        self._next = 0
        self._order = list(range(len(blocks)))
        self._pass: Generator[nn.Module, None, None] = self._run()
        self.resident: frozenset[int] = frozenset()
        self._streamed = list(self._order)
        self.limit(resident_bytes)

    def __enter__(self) -> BlockSwap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __call__(self) -> Generator[nn.Module, None, None]:
        """One pass over the blocks. Each is good until the next is asked for. Whoever breaks a pass off closes it."""
        return self._begin(list(range(len(self._blocks))))

    def there_and_back(self) -> Generator[nn.Module, None, None]:
        """One pass over the blocks and then over the same blocks from the last to the first, as training needs them."""
        there = list(range(len(self._blocks)))
        return self._begin(there + there[::-1])

    def _begin(self, order: list[int]) -> Generator[nn.Module, None, None]:
        self._pass.close()
        if order != self._order:
            self._forget()
            self._order = order
            self._stream()
        self._pass = self._run()
        return self._pass

    def _stream(self) -> None:
        """Which blocks a pass copies, in its order."""
        self._streamed = [index for index in self._order if index not in self.resident]

    @property
    def count(self) -> int:
        """Of the blocks."""
        return len(self._blocks)

    @property
    def bytes_per_pass(self) -> int:
        """What one pass copies."""
        return sum(self._blocks[index].size for index in self._streamed)

    @property
    def ring_bytes(self) -> int:
        """The device's bytes for blocks that pass through."""
        sizes = [self._blocks[index].size for index in self._streamed]
        wanted = BLOCKS_IN_RING * max(sizes, default=0) if self._wanted_ring_bytes is None else self._wanted_ring_bytes
        return min(max(wanted, max(sizes, default=0)), sum(sizes))

    @property
    def resident_bytes(self) -> int:
        """Of the blocks that stay."""
        return sum(self._blocks[index].size for index in self.resident)

    @property
    def device_bytes(self) -> int:
        """The most that the blocks take of the device."""
        return self.ring_bytes + self.resident_bytes

    @property
    def idle_bytes(self) -> int:
        """What ``release_idle`` would give back now."""
        ring = 0 if self._ring is None else self._ring.buffer.nbytes
        return ring + self._keep_host_copy * sum(flat.nbytes for flat in self._resident.values())

    @cached_property
    def bus_speed(self) -> float:
        """Bytes per second, measured when it is first asked for."""
        return bytes_per_second(self._transport, min(PROBE_BYTES, self.ring_bytes))

    def limit(self, resident_bytes: int) -> None:
        """Choose anew which blocks stay. Those that may not leave at once; those that may come with the next pass."""
        chosen = choose_resident([block.size for block in self._blocks], resident_bytes)
        if chosen != self.resident:
            self._release(self._resident.keys() - chosen)
            self.resident = chosen
            self._stream()

    def release_idle(self) -> None:
        """Give back what needs no copying; the next pass brings it again."""
        self._release(self._resident.keys() if self._keep_host_copy else ())

    def close(self) -> None:
        """The blocks are ordinary modules on the host again, and passes hand them out as they are; those without a copy
        there stay on the device, and go with their modules."""
        self._release([index for index in self._resident if self._blocks[index].host is not None])
        self._resident.clear()
        self.resident, self._streamed = frozenset(), []
        for block in self._blocks:
            block.close()

    def _release(self, leaving: Iterable[int]) -> None:
        """Give back the ring, and of the resident blocks those that are leaving."""
        self._pass.close()
        self._forget()
        self._transport.synchronize()
        self._ring = None
        for index in sorted(leaving):
            self._blocks[index].bring_home(self._resident[index])
            del self._resident[index]

    def _run(self) -> Generator[nn.Module, None, None]:
        self._settle()
        try:
            self._prefetch()
            for index in self._order:
                block = self._blocks[index]
                if index in self._streamed:
                    yield from self._lend(block)
                else:
                    yield block.module
        except Exception:
            self._forget()  # a copy has failed
            raise
        finally:
            self._rewind()

    def _lend(self, block: PackedBlock) -> Iterator[nn.Module]:
        """Hand out a block that passes through; when it comes back, its bytes are free for the next."""
        copy, ring = self._under_way[0], self._settled_ring()
        self._transport.wait(copy.ticket)
        block.bind(ring.buffer[copy.start : copy.end])
        try:
            yield block.module
        finally:
            block.bring_home()
        self._under_way.popleft()
        ring.give_back(copy, self._transport.mark())
        self._prefetch()

    def _prefetch(self) -> None:
        """Begin as many copies as there is room for."""
        ring = self._settled_ring()
        while len(self._under_way) < len(self._streamed):
            block = self._blocks[self._streamed[self._next]]
            start = ring.place(block.size)
            if start is None or block.host is None:
                return
            end = start + block.size
            ticket = self._transport.begin(block.host, ring.buffer[start:end], ring.last_use(start, end))
            copy = Copy(start, end, ticket)
            ring.take(copy)
            self._under_way.append(copy)
            self.bytes_moved += block.size
            self._next = (self._next + 1) % len(self._streamed)

    def _settle(self) -> None:
        """What stays on the device is there."""
        for index in sorted(self.resident - self._resident.keys()):
            self._resident[index] = self._blocks[index].make_resident(self._keep_host_copy)
            self.bytes_moved += self._blocks[index].size

    def _settled_ring(self) -> Ring:
        if self._ring is None:
            self._ring = Ring(self._transport.device_buffer(self.ring_bytes), self._transport.mark())
        return self._ring

    def _rewind(self) -> None:
        """Let a pass begin with what is under way. It may after a whole pass, and while no block has left the ring;
        else the copies are those of later blocks, and forgotten."""
        if self._streamed and (self._next - len(self._under_way)) % len(self._streamed):
            self._forget()

    def _forget(self) -> None:
        """The next pass begins with nothing under way. Copies keep their order: no old one overwrites a new one."""
        if self._under_way:
            ring, mark = self._settled_ring(), self._transport.mark()
            for copy in self._under_way:
                ring.give_back(copy, mark)
        self._under_way.clear()
        self._next = 0
