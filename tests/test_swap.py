"""Block swap: its schedule on a virtual clock, the bytes it moves, and that it changes no number."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.virtual_clock import VirtualTransport, blocking_swap_seconds
from diffusers_helper.swap import BlockSwap, choose_resident
from diffusers_helper.transport import ThreadTransport, bytes_per_second

GB = 10**9
DOUBLE, SINGLE = 226_548_224, 113_266_944
"""Weights of a block of the 13B transformer without its modulation."""
MODULATION = 2 * 56_641_536, 28_320_768
STEPS = 4
CAPS_GB = (6, 8, 12, 16, 24)
BESIDE_THE_BLOCKS = int(3.3 * GB)
"""What a cap also holds: embedders, activations, CUDA itself."""
PAGEABLE, SECONDS_PER_COPY = 8 * GB, 2e-5


@dataclass(frozen=True)
class Card:
    """What a card does: seconds of computation in a step at 640x608, and its bus."""

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
by_name = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)


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


def swapped_step(blocks: list[nn.Module], card: Card, cap_gb: int) -> tuple[float, float, float]:
    """Seconds of a step once settled, of the ideal one, and of one that copies tensor by tensor."""
    clock = VirtualTransport(card.bus)
    sizes = [sum(p.nbytes for p in block.parameters()) for block in blocks]
    swap = BlockSwap(blocks, clock, max(cap_gb * GB - BESIDE_THE_BLOCKS - 3 * max(sizes), 0))
    assert swap.device_bytes <= cap_gb * GB - BESIDE_THE_BLOCKS
    for step in range(2 + STEPS):
        if step == 2:
            began, before = clock.now, swap.bytes_moved
        for _ in swap():
            clock.compute(card.step_seconds / len(blocks))
    assert abs(swap.bytes_moved - before - STEPS * swap.bytes_per_pass) <= swap.ring_bytes
    streamed = [block for index, block in enumerate(blocks) if index not in swap.resident]
    blocking = blocking_swap_seconds(streamed, card.step_seconds, PAGEABLE, SECONDS_PER_COPY)
    return (clock.now - began) / STEPS, max(card.step_seconds, swap.bytes_per_pass / card.bus), blocking


@by_name
@pytest.mark.parametrize("cap_gb", CAPS_GB)
@pytest.mark.parametrize(("bytes_per_weight", "modulation"), [(1, False), (2, False), (2, True)])
def test_a_step_takes_as_long_as_computation_or_copies(
    card: Card, cap_gb: int, bytes_per_weight: int, modulation: bool
) -> None:
    """Also beside it: the swap of the original program, which waits for every tensor.

    With 16 bits in 6 GB, which nobody is given unasked, there is no room to even out the large blocks that come first.
    """
    taken, ideal, blocking = swapped_step(full_size(bytes_per_weight, modulation), card, cap_gb)
    assert taken <= (1.09 if bytes_per_weight == 2 and cap_gb == 6 else 1.05) * ideal
    assert taken <= blocking + 1e-9


def test_a_pass_that_is_not_made_moves_nothing() -> None:
    clock = VirtualTransport(25 * GB)
    swap = BlockSwap(full_size(1, False), clock, 2 * GB)
    for _ in swap():
        clock.compute(0.01)
    before = swap.bytes_moved
    swap()
    clock.compute(1.0)
    assert swap.bytes_moved == before


def numbered(sizes: list[int]) -> list[nn.Module]:
    """Blocks on the CPU that are full of their own number."""
    return [
        nn.ParameterList([nn.Parameter(torch.full((size,), n, dtype=torch.int16), requires_grad=False)])
        for n, size in enumerate(sizes)
    ]


def numbers(blocks: Iterator[nn.Module]) -> Iterator[int]:
    for block in blocks:
        (values,) = block.parameters()
        assert (values == values[0]).all()
        yield int(values[0])


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    resident=st.integers(0, 20_000),
    ring=st.none() | st.integers(0, 9000),
    broken_off=st.lists(st.integers(0, 11), max_size=3),
    keep=st.booleans(),
)
def test_every_block_has_its_own_weights(
    sizes: list[int], resident: int, ring: int | None, broken_off: list[int], keep: bool
) -> None:
    """Whatever the sizes, and after passes that were broken off anywhere."""
    blocks, transport = numbered(sizes), ThreadTransport()
    swap = BlockSwap(blocks, transport, resident, ring_bytes=ring, keep_host_copy=keep)
    assert sum(swap._blocks[index].size for index in swap.resident) <= resident
    for stop in broken_off:
        for number, value in enumerate(numbers(swap())):
            assert number == value
            if number == stop:
                break
    for _ in range(2):
        assert list(numbers(swap())) == list(range(len(sizes)))
    swap.limit(resident // 2)
    assert list(numbers(swap())) == list(range(len(sizes)))
    swap.close()
    assert list(numbers(iter(blocks))) == list(range(len(sizes)))
    transport.close()


@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=60), share=st.floats(0, 1.2))
def test_what_stays_never_exceeds_what_it_may_take(sizes: list[int], share: float) -> None:
    allowed = int(share * sum(sizes))
    resident = choose_resident(sizes, allowed)
    assert sum(sizes[index] for index in resident) <= allowed
    if share >= 1:
        assert len(resident) == len(sizes)


def test_what_stays_is_spread_evenly() -> None:
    assert sorted(choose_resident([100] * 12, 400)) == [2, 5, 8, 11]


@dataclass
class Watched(VirtualTransport):
    """Remembers which bytes of the ring were written when: (first byte, end, began, ended)."""

    written: list[tuple[int, int, float, float]] = field(default_factory=list)

    def begin(self, source: torch.Tensor, target: torch.Tensor, after: float | None) -> float:
        began = max(self.copied, after or 0.0)
        ended = super().begin(source, target, after)
        self.written.append((target.storage_offset(), target.storage_offset() + target.nbytes, began, ended))
        return ended


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=10),
    ring=st.integers(0, 9000),
    broken_off=st.lists(st.integers(0, 9), max_size=4),
    seconds=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_no_byte_is_written_while_it_is_read(
    sizes: list[int], ring: int, broken_off: list[int], seconds: float
) -> None:
    """Nor before the computation that was asked for before the ring was made has ended."""
    clock = Watched(bytes_per_second=1000.0, now=5.0)
    swap, read = (
        BlockSwap([block_of(size, 1) for size in sizes], clock, ring_bytes=ring),
        list[tuple[int, int, float, float]](),
    )
    for stop in [*broken_off, len(sizes), len(sizes)]:
        for number, block in enumerate(swap()):
            (values,) = block.parameters()
            began = clock.now
            clock.compute(seconds)
            read.append((values.storage_offset(), values.storage_offset() + values.nbytes, began, clock.now))
            if number == stop:
                break
    assert all(began >= 5.0 for _, _, began, _ in clock.written)
    for first, end, began, ended in clock.written:
        for other, other_end, reads, done in read:
            assert end <= other or other_end <= first or ended <= reads or done <= began


@pytest.mark.parametrize("keep", [True, False])
def test_at_rest_nothing_of_the_device_is_held(keep: bool) -> None:
    swap = BlockSwap(numbered([500] * 6), ThreadTransport(), 2500, keep_host_copy=keep)
    assert list(numbers(swap())) == list(range(6))
    swap.rest()
    assert swap._ring is None
    assert all(block.host is not None for block in swap._blocks)
    assert list(numbers(swap())) == list(range(6))


def test_copies_by_a_real_thread_hide_behind_the_computation() -> None:
    """A throttled bus: close to the ideal, far from one after the other. Bounds are loose, machines are busy."""
    blocks, step_seconds = numbered([500_000] * 12), 0.025
    limit = 1_000_000 / 0.02
    with BlockSwap(blocks, ThreadTransport(limit_bytes_per_second=limit)) as swap:
        list(swap())
        began = time.perf_counter()
        for _ in range(2):
            for _block in swap():
                time.sleep(step_seconds)
        taken = time.perf_counter() - began
    computation, copies = 24 * step_seconds, 24 * 0.02
    assert taken < computation + 0.6 * copies


def test_the_bus_is_measured() -> None:
    assert 0.5e9 < bytes_per_second(ThreadTransport(limit_bytes_per_second=1e9), 2**24) < 1.05e9


def test_a_swap_that_is_closed_leaves_ordinary_blocks() -> None:
    blocks = numbered([10, 20])
    with suppress(RuntimeError), BlockSwap(blocks, ThreadTransport()) as swap:
        for _ in swap():
            raise RuntimeError("out of memory in a block")
    assert list(numbers(iter(blocks))) == [0, 1]
