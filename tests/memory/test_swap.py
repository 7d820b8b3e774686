"""Block swap: its schedule on a virtual clock, the bytes it moves, and that it changes no number."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.machine import RESULTS
from bench.virtual_clock import (
    BESIDE_THE_BLOCKS,
    CAPS_GB,
    CARDS,
    GB,
    STEPS,
    WEIGHTS,
    Card,
    VirtualTransport,
    block_of,
    full_size,
    swapped_step,
    table,
)
from diffusers_helper.memory.swap import BlockSwap, choose_resident
from diffusers_helper.memory.transport import ThreadTransport, bytes_per_second

by_name = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)


@by_name
@pytest.mark.parametrize("cap_gb", CAPS_GB)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_step_takes_as_long_as_computation_or_copies(card: Card, cap_gb: int, weights: str) -> None:
    """Also beside it: the swap of the original program, which waits for every tensor.

    Where computation and copies take equally long, and 16 bits in 6 GB leave room for five blocks in all, the large
    blocks that come first cannot be evened out.
    """
    step = swapped_step(full_size(*WEIGHTS[weights]), card, cap_gb)
    uneven = (card.name, cap_gb) == ("H100, PCIe 4 x16", 6) and weights != "int8"
    assert step.taken <= (1.09 if uneven else 1.05) * step.ideal
    assert step.taken <= step.blocking + 1e-9
    assert step.swap.device_bytes <= cap_gb * GB - BESIDE_THE_BLOCKS
    assert abs(step.bytes_moved - STEPS * step.swap.bytes_per_pass) <= step.swap.ring_bytes


def test_the_table_that_is_kept_is_the_one_that_is_computed() -> None:
    kept = json.loads((RESULTS / "virtual_clock.json").read_text(encoding="utf-8"))
    assert kept["rows"] == list(table())


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


@settings(max_examples=200)
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


@settings(max_examples=200)
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


def test_at_rest_nothing_of_the_device_is_held() -> None:
    swap = BlockSwap(numbered([500] * 6), ThreadTransport(), 2500)
    assert list(numbers(swap())) == list(range(6))
    assert swap.idle_bytes == swap.device_bytes
    swap.release_idle()
    assert (swap._ring, swap._resident, swap.idle_bytes) == (None, {}, 0)
    assert list(numbers(swap())) == list(range(6))


def test_without_a_host_copy_only_blocks_that_leave_for_good_come_home() -> None:
    """At rest the ring goes; with a lower limit so many blocks come home as must, and no more."""
    swap = BlockSwap(numbered([500] * 6), ThreadTransport(), 5000, keep_host_copy=False)
    assert list(numbers(swap())) == list(range(6))
    away = {index for index, block in enumerate(swap._blocks) if block.host is None}
    assert away == swap.resident
    assert swap.idle_bytes == swap.ring_bytes
    swap.release_idle()
    assert swap._ring is None
    assert {index for index, block in enumerate(swap._blocks) if block.host is None} == away
    moved = swap.bytes_moved
    assert list(numbers(swap())) == list(range(6))
    assert swap.bytes_moved - moved <= 2 * swap.bytes_per_pass
    swap.limit(2500)
    stay = {index for index, block in enumerate(swap._blocks) if block.host is None}
    assert stay == swap.resident & away
    assert stay
    assert list(numbers(swap())) == list(range(6))


class Failing(ThreadTransport):
    """Waits in vain, or cannot begin, when it is told to."""

    fails_to: str = ""

    def begin(self, *arguments: Any) -> Any:
        if self.fails_to == "begin":
            raise RuntimeError("no copy")
        return super().begin(*arguments)

    def wait(self, ticket: Any) -> None:
        if self.fails_to == "wait":
            raise RuntimeError("lost on the way")
        super().wait(ticket)


@pytest.mark.parametrize("fails_to", ["begin", "wait"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_copy_that_fails_costs_its_pass_only(fails_to: str, at: int) -> None:
    transport = Failing()
    swap = BlockSwap(numbered([500, 900, 300, 700, 500]), transport)
    list(swap())

    def broken_pass() -> None:
        for number, _ in enumerate(swap()):
            transport.fails_to = fails_to if number == at else ""

    with pytest.raises(RuntimeError):
        broken_pass()
    transport.fails_to = ""
    for _ in range(3):
        assert list(numbers(swap())) == list(range(5))


def test_a_first_copy_that_fails_is_not_what_the_next_pass_begins_with() -> None:
    transport = Failing()
    swap = BlockSwap(numbered([500, 900, 300, 700, 500]), transport)
    list(swap())
    transport.fails_to = "wait"
    with pytest.raises(RuntimeError):
        next(swap())
    transport.fails_to = ""
    for _ in range(2):
        assert list(numbers(swap())) == list(range(5))


def stopped_pass(swap: BlockSwap, after: int) -> None:
    """A pass that looks at the blocks up to number ``after``, each with its own weights, and goes no further."""
    with closing(swap()) as blocks:
        assert list(islice(numbers(blocks), after + 1)) == list(range(after + 1))


@pytest.mark.parametrize("resident", [0, 2000, 4000])
def test_a_pass_that_stops_at_the_first_block_that_passes_through_fetches_nothing(resident: int) -> None:
    """What is fetched ahead of it the next whole pass uses, also when the ring was empty before."""
    swap = BlockSwap(numbered([500] * 8), ThreadTransport(), resident)
    list(swap())
    settled = swap.bytes_moved
    for _ in range(4):
        for after in range(swap._streamed[0] + 1):
            stopped_pass(swap, after)
    assert swap.bytes_moved == settled
    swap.release_idle()
    stopped_pass(swap, swap._streamed[0])
    stopped_pass(swap, 0)
    assert list(numbers(swap())) == list(range(8))
    brought_again = swap.resident_bytes + swap.bytes_per_pass + swap.ring_bytes
    assert swap.bytes_moved - settled == brought_again


def test_a_pass_that_stops_later_fetches_no_more_than_it_runs_and_a_ring_ahead() -> None:
    swap = BlockSwap(numbered([512] * 20), ThreadTransport())
    list(swap())
    for after in (1, 3, 8):
        before = swap.bytes_moved
        stopped_pass(swap, after)
        assert swap.bytes_moved - before <= after * 1024 + swap.ring_bytes
    assert list(numbers(swap())) == list(range(20))


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
