"""CUDA streams without a GPU: work that is queued runs as late, or as early, as the events allow.

What a program queues in one order, a device may do in another. So one stream hurries, which does its work at once, and
the others idle, and do theirs only when somebody waits for it. A program that is right with either in a hurry has an
event wherever one is needed. Copies lie in RAM and really happen; the computation is what a test queues.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Event:
    """The point in a stream where all that was queued so far is done."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._number = stream, stream.queued

    def synchronize(self) -> None:
        self._stream.run_to(self._number)


class Stream:
    """Does in order what it is asked for; at once if it ``hurries``."""

    def __init__(self, lock: Any, hurries: bool) -> None:
        self._lock, self._hurries = lock, hurries
        self._waiting: deque[Callable[[], Any]] = deque()
        self.queued = self._done = self.copied_bytes = 0

    def queue(self, work: Callable[[], Any]) -> None:
        with self._lock:
            self._waiting.append(work)
            self.queued += 1
            if self._hurries:
                self.run_to(self.queued)

    def run_to(self, number: int) -> None:
        with self._lock:
            while self._done < number:
                self._done += 1
                self._waiting.popleft()()

    def wait_event(self, event: Event) -> None:
        self.queue(event.synchronize)

    def record_event(self) -> Event:
        return Event(self)


class _Queued(TorchFunctionMode):
    """Copies that need not block go to a stream."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not Tensor.copy_ or not (kwargs or {}).get("non_blocking"):
            return function(*args, **(kwargs or {}))
        target, source = args
        self._stream.copied_bytes += source.nbytes
        self._stream.queue(lambda: target.copy_(source))
        return target


class Device:
    """The streams of a device: ``computation``, and those that the program makes."""

    def __init__(self, copies_hurry: bool) -> None:
        self._lock, self._copies_hurry = threading.RLock(), copies_hurry
        self.computation = Stream(self._lock, hurries=not copies_hurry)
        self.copies: list[Stream] = []
        self._of_thread = threading.local()

    def new_stream(self, device: object = None) -> Stream:
        self.copies.append(Stream(self._lock, self._copies_hurry))
        return self.copies[-1]

    def current(self, device: object = None) -> Stream:
        current: Stream = getattr(self._of_thread, "stream", self.computation)
        return current

    @contextmanager
    def using(self, stream: Stream) -> Iterator[None]:
        before, self._of_thread.stream = self.current(), stream
        try:
            with _Queued(stream):
                yield
        finally:
            self._of_thread.stream = before

    def synchronize(self, device: object = None) -> None:
        for stream in (self.computation, *self.copies):
            stream.run_to(stream.queued)

    @property
    def busy(self) -> bool:
        return any(stream._waiting for stream in (self.computation, *self.copies))


def install(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch.cuda's streams be those of ``device``."""
    monkeypatch.setattr(torch.cuda, "Stream", device.new_stream)
    monkeypatch.setattr(torch.cuda, "stream", device.using)
    monkeypatch.setattr(torch.cuda, "current_stream", device.current)
    monkeypatch.setattr(torch.cuda, "synchronize", device.synchronize)
