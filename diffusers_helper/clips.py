"""The clips of a run, one after the other: decoded, and joined to the result.

How much of that is done while the next section is sampled is the engine's to say. Frames are the same in every case.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from . import faults
from .errors import BrokenNumbers
from .growing_result import GrowingResult
from .memory.costs import Beside
from .memory.shortage import is_out_of_memory
from .progress import Progress
from .sections.plan import SectionPlan
from .words import Message

log = logging.getLogger(__name__)


class ClipDecoder(Protocol):
    """What clips ask of an engine; see engine.py."""

    @property
    def beside(self) -> Beside: ...
    def decode(self, latents: Tensor) -> Tensor: ...
    def decode_beside(self, latents: Tensor) -> Callable[[], Tensor]: ...
    def decode_alone(self) -> None: ...


class Clips:
    """One clip at a time, begun and finished between two events of the road."""

    def __init__(self, decoder: ClipDecoder, result: GrowingResult, progress: Progress) -> None:
        self._decoder, self._result, self._progress = decoder, result, progress
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="framepack-clip")
        self._under_way: SectionPlan | None = None
        self._path: Future[Path] = Future()
        self._alone: Callable[[], Path] | None = None

    def begin(self, section: SectionPlan, latents: Tensor) -> None:
        """Make the clip of ``section`` from ``latents``, [1, C, T, H, W]; what is done beside goes on after this."""
        decode, self._alone = partial(self._decoder.decode, latents), None
        with self._progress.decoding():
            match self._decoder.beside:
                case "decoding":
                    self._alone = partial(self._add, section, decode)
                    self._path = self._thread.submit(self._add, section, self._decoder.decode_beside(latents))
                case "writing":
                    self._path = self._thread.submit(self._result.add, section, decoded(section, decode))
                case "nothing":
                    self._path = done(self._add(section, decode))
        self._under_way = section

    @property
    def ready(self) -> bool:
        """Whether there is one that is only to be finished."""
        return self._under_way is not None and self._path.done()

    def finish(self) -> SectionPlan | None:
        """Wait for the clip under way; returns its section, None where there is none.

        Where memory has run out beside the sampling, it is made now.
        """
        section = self._under_way
        if section is not None:
            self._under_way = None
            with self._progress.decoding():
                path = self._wait()
            self._progress.clip_is_done(section.frames_after, path)
        return section

    def close(self) -> None:
        """The same at whatever end. A clip that fails then is made when its run goes on: its latents are saved."""
        try:
            self.finish()
        except Exception:
            log.warning("the clip that was under way at the end failed", exc_info=True)
        finally:
            self._thread.shutdown()

    def _wait(self) -> Path:
        try:
            return self._path.result()
        except (RuntimeError, MemoryError) as error:
            if self._alone is None or not is_out_of_memory(error):
                raise
        self._decoder.decode_alone()
        return self._alone()

    def _add(self, section: SectionPlan, decode: Callable[[], Tensor]) -> Path:
        return self._result.add(section, decoded(section, decode))


def decoded(section: SectionPlan, decode: Callable[[], Tensor]) -> Tensor:
    """The clip of ``section``; raises BrokenNumbers where it holds what would become black frames."""
    faults.passing("decode")
    clip = decode()
    if not torch.isfinite(clip).all():
        raise BrokenNumbers(Message("failure.broken_pixels", section=section.number + 1))
    return clip


def done(path: Path) -> Future[Path]:
    """What needs no waiting."""
    future: Future[Path] = Future()
    future.set_result(path)
    return future
