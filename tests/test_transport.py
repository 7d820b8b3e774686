"""The CUDA transport with a stand-in for the driver: what it locks and unlocks, and the way without locked memory."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from diffusers_helper import transport
from diffusers_helper.swap import BlockSwap
from diffusers_helper.transport import PAGE_BYTES, CudaTransport, bytes_per_second

from .test_swap import numbered, numbers


class Event:
    """Every copy has ended when it was asked for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


class Stream:
    """Does at once what it is asked for."""

    def __init__(self, device: object = None) -> None:
        """Of any device."""

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)

    def record_event(self) -> Event:
        return Event()


class Driver:
    """Locks up to ``room`` bytes, in whole pages, none of them twice."""

    def __init__(self, room: int) -> None:
        self.room = room
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
        del self.locked[address]
        return 0


@pytest.fixture(params=[10**9, 12_000, 0], ids=["all is locked", "some", "none"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver(request.param)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: made)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(transport, "STAGING_BYTES", 1000)
    return made


@pytest.mark.parametrize("keep", [True, False])
def test_blocks_arrive_and_nothing_stays_locked(driver: Driver, keep: bool, caplog: pytest.LogCaptureFixture) -> None:
    cuda, sizes = CudaTransport("cpu"), [100, 2000, 1500, 700, 2000, 900]
    swap = BlockSwap(numbered(sizes), cuda, 3000, keep_host_copy=keep)
    for _ in range(3):
        assert list(numbers(swap())) == list(range(len(sizes)))
    assert cuda.staged == ("refuses to lock" in caplog.text) == (driver.room < 10**9)
    swap.close()
    assert not driver.locked
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


@pytest.mark.gpu
def test_the_bus_of_a_gpu() -> None:
    locked, ordinary = CudaTransport(), CudaTransport(locks=False)
    assert not locked.staged
    assert bytes_per_second(locked) > bytes_per_second(ordinary) > 1e8
    locked.close()
    ordinary.close()
