"""The CUDA transport with a stand-in for the driver: what it locks and unlocks, and the way without locked memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from diffusers_helper.memory import transport as transports
from diffusers_helper.memory.swap import BlockSwap
from diffusers_helper.memory.transport import PAGE_BYTES, CudaTransport, bytes_per_second

from .cuda_streams import Device, install
from .test_swap import numbered


class Driver:
    """Locks up to ``room`` bytes, in whole pages, none of them twice."""

    def __init__(self, room: int, device: Device) -> None:
        self.room, self.device = room, device
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802 - the driver's name
        assert address % PAGE_BYTES == size % PAGE_BYTES == flags == 0
        pages = [range(start, start + length) for start, length in self.locked.items()]
        assert all(address + size <= held.start or held.stop <= address for held in pages)
        if sum(self.locked.values()) + size > self.room:
            return 2
        self.locked[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        assert not self.device.busy, "it might still be read"
        del self.locked[address]
        return 0


@pytest.fixture(params=[True, False], ids=["copies hurry", "computation hurries"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device(copies_hurry=request.param)
    install(made, monkeypatch)
    return made


@pytest.fixture(params=[10**9, 12_000, 0], ids=["all is locked", "some", "none"])
def driver(request: pytest.FixtureRequest, device: Device, monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver(request.param, device)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: made)
    monkeypatch.setattr(transports, "STAGING_BYTES", 1000)
    return made


def compute(device: Device, blocks: Iterator[nn.Module], check: Callable[[int, Tensor], None]) -> None:
    """Queue, for each block, a computation that reads the weights it has then."""
    for number, block in enumerate(blocks):
        (weights,) = (parameter.data for parameter in block.parameters())
        device.computation.queue(partial(check, number, weights))


@pytest.mark.parametrize("keep", [True, False])
def test_blocks_arrive_and_nothing_stays_locked(
    driver: Driver, device: Device, keep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Every computation finds the weights of its own block, however far one stream is ahead of the other."""
    cuda, sizes, seen = CudaTransport("cpu"), [100, 2000, 1500, 700, 2000, 900], list[int]()

    def check(number: int, weights: Tensor) -> None:
        assert (weights == number).all()
        seen.append(number)

    swap = BlockSwap(numbered(sizes), cuda, 3000, keep_host_copy=keep)
    for _ in range(3):
        compute(device, swap(), check)
    assert cuda.staged == ("refuses to lock" in caplog.text) == (driver.room < 10**9)
    swap.limit(1000)
    compute(device, swap(), check)
    swap.close()
    assert seen == [*range(len(sizes))] * 4
    assert not driver.locked
    assert device.copies[0].copied_bytes == swap.bytes_moved, "all beside the computation"
    cuda.close()


def test_closing_the_transport_unlocks_what_is_left(driver: Driver) -> None:
    cuda = CudaTransport("cpu")
    buffers = [cuda.host_buffer(5000) for _ in range(2)]
    cuda.close()
    assert not driver.locked
    assert all(buffer.nbytes == 5000 for buffer in buffers)


def test_the_bus_is_measured_and_let_go(driver: Driver) -> None:
    cuda = CudaTransport("cpu")
    assert bytes_per_second(cuda, 5000) > 0
    assert not driver.locked
    cuda.close()


def test_nothing_stays_locked_when_a_swap_is_dropped_unclosed(driver: Driver, device: Device) -> None:
    """Whoever gets its addresses next could not lock them, or would be read from elsewhere."""
    for _ in range(3):
        transport = CudaTransport("cpu")
        swap = BlockSwap(numbered([100, 2000, 1500]), transport, 0)
        compute(device, swap(), lambda number, weights: None)
        transport.synchronize()
        del swap, transport
        gc.collect()
        assert not driver.locked


def test_memory_is_filled_before_it_is_locked(driver: Driver) -> None:
    cuda, locked = CudaTransport("cpu"), list[int]()
    cuda.host_buffer(5000, lambda buffer: locked.append(len(driver.locked)))
    assert locked == [0]
    cuda.close()


@pytest.mark.gpu
def test_the_bus_of_a_gpu() -> None:
    locked, ordinary = CudaTransport(), CudaTransport(locks=False)
    assert not locked.staged
    assert bytes_per_second(locked) > bytes_per_second(ordinary) > 1e8
    locked.close()
    ordinary.close()
