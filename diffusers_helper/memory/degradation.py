"""What happens when memory runs out: the work is tried again with less of it, until nothing is left to try.

Each *fallback* is taken once, said once, and remembered: later videos are planned with what it has taught.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any, Literal, TypeVar

import torch

from ..words import Message
from .planner import Planner
from .residency import Residency
from .shortage import is_out_of_memory, is_out_of_ram

log = logging.getLogger(__name__)
T = TypeVar("T")

Stage = Literal["encode", "sample", "decode"]
Shortage = Literal[Stage, "ram"]
"""Of the GPU's memory at a stage, or of RAM, whatever the stage."""


class Degradation:
    """Retries and their fallbacks, for one video after another.

    Attributes:
        encode_on_demand: the encoders' weights come to the device as they are used.
    """

    def __init__(self, residency: Residency, planner: Planner, device: torch.device) -> None:
        self._residency, self._planner, self._device = residency, planner, device
        self._changing = Lock()
        self.begin()

    def begin(self) -> None:
        """A video begins, by the plan that the residency follows."""
        self.encode_on_demand = self._planner.encode_on_demand
        self._notices: list[Message] = []
        self._fallbacks: dict[Shortage, Iterator[Message]] = {
            "encode": self._encode_fallbacks(),
            "sample": self._sample_fallbacks(),
            "decode": self._decode_fallbacks(),
            "ram": self._free(Message("memory.freed_ram")),
        }

    def attempt(self, stage: Stage, work: Callable[[], T]) -> T:
        """Do ``work``, again with less memory as long as it runs out and there is a way; each way is a notice."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = without_frames(error)
            with self._changing:
                message = self.use_less("ram" if is_out_of_ram(failure) else stage)
            if message is None:
                try:
                    raise failure
                finally:
                    del failure  # which holds this frame now
            log.warning("%s", message)
            self._notices.append(message)

    def undisturbed(self) -> AbstractContextManager[Any]:
        """For another thread: while this lasts nobody is sent from the device; who has run out of memory waits."""
        return self._changing

    def decode_alone(self) -> None:
        """Memory ran out where a clip was decoded while the next section was sampled: no more of that."""
        for message in self._alone():
            log.warning("%s", message)
            self._notices.append(message)

    def notices(self) -> list[Message]:
        """Those since the last time."""
        drained, self._notices = self._notices, []
        return drained

    def use_less(self, shortage: Shortage) -> Message | None:
        """Take the next fallback; returns what was done, or None when nothing is left to try."""
        return next(self._fallbacks[shortage], None)

    def _free(self, told: Message | None = None) -> Iterator[Message]:
        self._residency.clear()
        yield told or Message("memory.freed", device=str(self._device))

    def _encode_fallbacks(self) -> Iterator[Message]:
        yield from self._free()
        if self._residency.moves and not self.encode_on_demand:
            self.encode_on_demand = True
            self._planner.learn(encode_on_demand=True)
            yield Message("memory.encode_on_demand")

    def _alone(self) -> Iterator[Message]:
        if self._residency.decode_alone():
            self._planner.learn(alone=True)
            yield Message("memory.decodes_alone")

    def _sample_fallbacks(self) -> Iterator[Message]:
        yield from self._alone()
        self._residency.vae_leaves()
        self._planner.learn(vae_leaves=True)
        yield from self._free()
        while self._residency.shrink():
            blocks = self._residency.plan.resident_blocks
            self._planner.learn(resident_bytes=self._residency.plan.resident_bytes)
            yield Message("memory.fewer_blocks", blocks=blocks)

    def _decode_fallbacks(self) -> Iterator[Message]:
        self._residency.take_turns()
        self._planner.learn(take_turns=True)
        yield from self._free()
        if not self._residency.moves:
            return
        for decoder in self._planner.smaller_decoders(self._residency.plan.decode):
            self._residency.decode_by(decoder.name)
            self._planner.learn(decoder=decoder)
            how = tuple(filter(None, (decoder.words, decoder.remark)))
            yield Message("memory.smaller_decoder", how=how)


def without_frames(error: BaseException) -> BaseException:
    """The error alone: the frames of its traceback, its cause and its context keep alive what must be freed."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
