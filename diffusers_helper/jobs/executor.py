"""Where a job is carried out. The default is this process; anything that tells its events will do."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ..events import Events
from ..forecast import UNKNOWN, Paces
from ..interrupt import stoppable
from ..media.files import day_folder, require_folder
from ..request import Request
from ..training.order import TrainingOrder
from .work import Work

if TYPE_CHECKING:
    from ..engine import Engine
    from ..generate import GenerationEngine
    from ..models.table import Checkpoint
    from ..training.training import Training

log = logging.getLogger(__name__)


class Execution(Protocol):
    """A job under way."""

    def events(self) -> Events:
        """What happens, as it happens; ends with a Last.

        Raises:
            ExecutorLost: it was ended from outside; the job can go on.
            FramePackError: it cannot begin.
        """

    def cancel(self) -> None:
        """End at the next event, from any thread; may be asked for more than once."""


class Executor(Protocol):
    """Carries out one job at a time.

    Attributes:
        keeps_models: whether the models of one job are there for the next.
    """

    @property
    def keeps_models(self) -> bool: ...

    def submit(self, work: Work, folder: Path | None, checkpoint: str) -> Execution:
        """Begin ``work``, or go on with the work folder ``folder``; returns at once.

        ``checkpoint``: the source of the one it is for; an empty one is the one that is chosen. A work folder names its
        own.
        """

    def close(self) -> None:
        """Let go of what is loaded, while no job is carried out."""


class LocalExecutor:
    """Carries jobs out in this process, on one engine, which is loaded when a request needs its checkpoint.

    A training has an engine to itself, whose memory is planned for it.
    """

    keeps_models = True

    def __init__(
        self,
        find: Callable[[str], Checkpoint],
        load: Callable[[Checkpoint], GenerationEngine],
        output_dir: Path,
        known: Callable[[Request, str], Paces] = lambda request, checkpoint: UNKNOWN,
        load_to_train: Callable[[Training, Checkpoint], GenerationEngine] | None = None,
    ) -> None:
        """
        Args:
            find: the checkpoint of a source; raises UnusableCheckpoint.
            load: makes its engine.
            known: what earlier videos like a request took with the checkpoint of this source.
            load_to_train: makes the engine of a training; ``load`` does where there is none.
        """
        self._load_to_train = load_to_train or (lambda training, checkpoint: load(checkpoint))
        self._find, self._load, self._output_dir, self._known = find, load, output_dir, known
        self._engine: GenerationEngine | None = None

    def submit(self, work: Work, folder: Path | None, checkpoint: str) -> Execution:
        if isinstance(work, TrainingOrder):
            return _LocalExecution(lambda: self._train(work, checkpoint))
        return _LocalExecution(lambda: self._begin(work, folder, checkpoint))

    def _train(self, order: TrainingOrder, checkpoint: str) -> Events:
        """What can be refused without weights is refused before any are let go. Raises FramePackError."""
        from ..training.train import train
        from ..training.training import check_files, training_of

        training = training_of(order)
        check_files(training)
        found = self._find(checkpoint)
        self._let_go()
        self._engine = self._load_to_train(training, found)
        try:
            yield from train(training, cast("Engine", self._engine))
        finally:
            self._let_go()

    def _begin(self, request: Request, folder: Path | None, checkpoint: str) -> Events:
        """Weights are loaded only where there is a place for what they make. Raises FramePackError."""
        from ..generate import generate, resume
        from ..workfolder import WorkFolder

        if folder:
            checkpoint = WorkFolder.reopen(folder).manifest.checkpoint_source
        else:
            require_folder(day_folder(self._output_dir, datetime.now()))
        engine, known = self._engine_of(self._find(checkpoint)), self._known(request, checkpoint)
        if folder:
            return resume(folder, engine, known)
        return generate(request, engine, self._output_dir, known=known)

    def _engine_of(self, checkpoint: Checkpoint) -> GenerationEngine:
        """The engine of ``checkpoint``, of its files as they are now. Another goes before it is loaded: there may be
        room for one only."""
        if self._engine is not None and not _serves(self._engine, checkpoint):
            self._let_go()
        if self._engine is None:
            gc.collect()  # what a job that failed has left in the frames of its error
            self._engine = self._load(checkpoint)
        return self._engine

    def _let_go(self) -> None:
        """Of the engine, where there is one."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
            del engine
            gc.collect()

    def close(self) -> None:
        """Let the engine go, while no request is carried out. A GPU that is lost gives nothing back."""
        try:
            self._let_go()
        except RuntimeError:
            log.warning("what the engine held could not be given back", exc_info=True)


def _serves(engine: GenerationEngine, checkpoint: Checkpoint) -> bool:
    """Its own checkpoint remembers the files that it has read, so that only changed ones are read again."""
    return engine.checkpoint == checkpoint and engine.checkpoint.fingerprint() == engine.fingerprint


class _LocalExecution:
    def __init__(self, begin: Callable[[], Events]) -> None:
        self._begin = begin
        self._cancelled = False

    def events(self) -> Events:
        return stoppable(self._begin(), lambda: self._cancelled)

    def cancel(self) -> None:
        self._cancelled = True
