"""How bytes get from the host's memory to the device that computes, beside the computation.

A ``Transport`` owns both kinds of buffers and one queue of copies. ``CudaTransport`` is a copy stream with events both
ways, so the host never waits; ``ThreadTransport`` serves devices that have no such streams. Buffers are flat, of bytes.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)
T = TypeVar("T")
Fill = Callable[[Tensor], object]
"""Writes what a fresh host buffer shall hold."""

PROBE_BYTES = 2**27
PAGE_BYTES = 2**12
STAGING_BYTES = 2**26
STAGING_PIECES = 3


def untouched(buffer: Tensor) -> None:
    """Let a fresh host buffer hold whatever it holds."""


class Transport(Protocol):
    """Copies in the order in which they were begun, each after the mark it was given.

    A mark is a point in the computation; a ticket stands for one copy.
    """

    device: torch.device

    def host_buffer(self, size: int, fill: Fill = untouched) -> Tensor: ...
    def free_host_buffer(self, buffer: Tensor) -> None: ...
    def device_buffer(self, size: int) -> Tensor: ...
    def mark(self) -> Any: ...
    def begin(self, source: Tensor, target: Tensor, after: Any) -> Any: ...
    def wait(self, ticket: Any) -> None: ...
    def synchronize(self) -> None: ...
    def close(self) -> None: ...


def bytes_per_second(transport: Transport, size: int = PROBE_BYTES) -> float:
    """The speed of the bus, measured with one copy of ``size`` bytes after one that warms up."""
    source, target = transport.host_buffer(size, Tensor.zero_), transport.device_buffer(size)
    try:
        return size / max(min(_timed_copy(transport, source, target) for _ in range(2)), 1e-9)
    finally:
        transport.free_host_buffer(source)


def _timed_copy(transport: Transport, source: Tensor, target: Tensor) -> float:
    transport.synchronize()
    began = time.perf_counter()
    transport.wait(transport.begin(source, target, transport.mark()))
    transport.synchronize()
    return time.perf_counter() - began


def best_transport(device: torch.device) -> Transport:
    """The transport for the device that computes."""
    return CudaTransport(device) if device.type == "cuda" else ThreadTransport(device)


def _bytes(size: int, **where: Any) -> Tensor:
    """An ordinary tensor, also when made in inference mode: other threads write to it."""
    with torch.inference_mode(False):
        return torch.empty(size, dtype=torch.uint8, **where)


class ThreadTransport:
    """One thread copies. For a device that computes while the program waits, so that what is behind us is done.

    Args:
        limit_bytes_per_second: copies take at least as long as on a bus of this speed.
    """

    def __init__(self, device: torch.device | str = "cpu", limit_bytes_per_second: float | None = None) -> None:
        self.device = torch.device(device)
        self._limit = limit_bytes_per_second
        self._worker = ThreadPoolExecutor(1, "transport")

    def host_buffer(self, size: int, fill: Fill = untouched) -> Tensor:
        buffer = _bytes(size)
        fill(buffer)
        return buffer

    def free_host_buffer(self, buffer: Tensor) -> None:
        """Nothing but the memory is held."""

    def device_buffer(self, size: int) -> Tensor:
        return _bytes(size, device=self.device)

    def mark(self) -> None:
        """What was asked for before this call is done."""

    def begin(self, source: Tensor, target: Tensor, after: None) -> Future[None]:
        return self._worker.submit(self._copy, source, target)

    def wait(self, ticket: Future[None]) -> None:
        ticket.result()

    def synchronize(self) -> None:
        self._worker.submit(int).result()

    def close(self) -> None:
        self._worker.shutdown()

    def _copy(self, source: Tensor, target: Tensor) -> None:
        began = time.perf_counter()
        target.copy_(source)
        if self._limit:
            time.sleep(max(0.0, source.nbytes / self._limit - (time.perf_counter() - began)))


class CudaTransport:
    """One copy stream from page-locked memory. Where the system refuses to lock, a thread fills a small locked ring.

    Memory is locked where it lies: PyTorch's own locked memory comes in powers of two, up to twice what is needed. It
    is unlocked before its bytes go, also where nobody closes anything: whoever got their addresses next could not lock
    them, and might be read from where they were. Nobody gets the memory of a buffer on the device before the last copy
    into it has ended.
    """

    def __init__(self, device: torch.device | str = "cuda", locks: bool = True) -> None:
        self.device = torch.device(device)
        self._copies = torch.cuda.Stream(self.device)
        self._locked = _LockedPages(self.device)
        self._ring: _StagingRing | None = None if locks else _StagingRing()
        self._worker = ThreadPoolExecutor(1, "transport")

    @property
    def staged(self) -> bool:
        """True when memory could not be locked, so that copies go through a small ring."""
        return self._ring is not None

    def host_buffer(self, size: int, fill: Fill = untouched) -> Tensor:
        """Whole pages, because pages are what is locked. They are filled before: those that were never touched the
        driver would fetch one by one."""
        owner = np.empty(size + 2 * PAGE_BYTES, np.uint8)
        start = -owner.ctypes.data % PAGE_BYTES
        with torch.inference_mode(False):
            buffer = torch.from_numpy(owner)[start : start + size]
        fill(buffer)
        if self._ring is None and not self._locked.add(buffer, owner):
            log.warning("the system refuses to lock %.1f GB of memory: copies go through a small ring", size / 1e9)
            self._ring = _StagingRing()
        return buffer

    def free_host_buffer(self, buffer: Tensor) -> None:
        """Unlock it, when its last copy has ended."""
        self._locked.release(buffer.data_ptr())

    def device_buffer(self, size: int) -> Tensor:
        buffer = _bytes(size, device=self.device)
        if buffer.is_cuda:
            buffer.record_stream(self._copies)
        return buffer

    def mark(self) -> torch.cuda.Event:
        return torch.cuda.current_stream(self.device).record_event()

    def begin(self, source: Tensor, target: Tensor, after: torch.cuda.Event | None) -> Any:
        """Copies keep their order: as soon as one needs the ring, all go through its thread."""
        if self._ring is None:
            return self._copy(source, target, after)
        return self._worker.submit(self._copy, source, target, after)

    def wait(self, ticket: Any) -> None:
        event = ticket.result() if isinstance(ticket, Future) else ticket
        torch.cuda.current_stream(self.device).wait_event(event)

    def synchronize(self) -> None:
        self._worker.submit(int).result()
        torch.cuda.synchronize(self.device)

    def close(self) -> None:
        self.synchronize()
        self._worker.shutdown()
        self._locked.release_all()

    def _copy(self, source: Tensor, target: Tensor, after: torch.cuda.Event | None) -> torch.cuda.Event:
        with torch.cuda.stream(self._copies):
            if after is not None:
                self._copies.wait_event(after)
            if self._ring is None or source.data_ptr() in self._locked:
                target.copy_(source, non_blocking=True)
            else:
                self._ring.copy(source, target)
            return self._copies.record_event()


class _LockedPages:
    """Where memory is locked. It is unlocked when it is released, or when the array that owns it goes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._unlock: dict[int, weakref.finalize[..., np.ndarray]] = {}

    def __contains__(self, address: int) -> bool:
        return address in self._unlock

    def add(self, buffer: Tensor, owner: np.ndarray) -> bool:
        """Lock the pages of ``buffer``; False where the system refuses."""
        address, pages = buffer.data_ptr(), -(-buffer.nbytes // PAGE_BYTES)
        status = torch.cuda.cudart().cudaHostRegister(address, pages * PAGE_BYTES, 0)
        if int(status) != 0:
            _swallow(lambda: torch.zeros(1, device=self._device).add_(1))
            return False
        self._unlock[address] = weakref.finalize(owner, self._forget, address)
        self._unlock[address].atexit = False
        return True

    def release(self, address: int) -> None:
        """Of no effect where nothing is locked."""
        if address in self._unlock:
            self._unlock[address]()

    def release_all(self) -> None:
        for address in list(self._unlock):
            self.release(address)

    def _forget(self, address: int) -> None:
        del self._unlock[address]
        try:
            torch.cuda.synchronize(self._device)  # a copy may still be reading
        finally:
            torch.cuda.cudart().cudaHostUnregister(address)


def _swallow(launch: Callable[[], T]) -> T | None:
    """CUDA tells a refused request again at the next launch; this one is for it."""
    try:
        return launch()
    except RuntimeError:
        return None


class _StagingRing:
    """Pieces of locked memory through which larger copies go, on the current stream of the calling thread."""

    def __init__(self) -> None:
        self._pieces = [self._piece() for _ in range(STAGING_PIECES)]
        self._free: list[torch.cuda.Event | None] = [None] * STAGING_PIECES
        self._turn = 0

    def copy(self, source: Tensor, target: Tensor) -> None:
        for start in range(0, source.nbytes, STAGING_BYTES):
            piece, free = self._pieces[self._turn], self._free[self._turn]
            if free is not None:
                free.synchronize()
            part = piece[: min(STAGING_BYTES, source.nbytes - start)]
            part.copy_(source[start : start + part.nbytes])
            target[start : start + part.nbytes].copy_(part, non_blocking=True)
            self._free[self._turn] = torch.cuda.current_stream().record_event()
            self._turn = (self._turn + 1) % STAGING_PIECES

    @staticmethod
    def _piece() -> Tensor:
        """Locked if that much can be; copies from ordinary memory are slower, and right."""
        locked = _swallow(lambda: _bytes(STAGING_BYTES, pin_memory=True))
        return _bytes(STAGING_BYTES) if locked is None else locked
