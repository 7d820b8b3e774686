"""Where a request is carried out. The default is this process; anything that tells a request's events will do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..events import Events
from ..forecast import UNKNOWN, Paces
from ..interrupt import stoppable
from ..media.files import day_folder, require_folder
from ..request import Request

if TYPE_CHECKING:
    from ..generate import GenerationEngine


class Execution(Protocol):
    """A request under way."""

    def events(self) -> Events:
        """What happens, as it happens; ends with an Ended. Raises FramePackError when it cannot begin."""

    def cancel(self) -> None:
        """End at the next event, from any thread; may be asked for more than once."""


class Executor(Protocol):
    """Carries out one request at a time."""

    def submit(self, request: Request, folder: Path | None) -> Execution:
        """Begin ``request``, or go on with the work folder ``folder``; returns at once."""


class LocalExecutor:
    """Carries requests out in this process, on an engine that is loaded with the first of them."""

    def __init__(
        self,
        load: Callable[[], GenerationEngine],
        output_dir: Path,
        known: Callable[[Request], Paces] = lambda request: UNKNOWN,
    ) -> None:
        """``known``: what earlier videos like a request took."""
        self._load, self._output_dir, self._known = load, output_dir, known
        self._engine: GenerationEngine | None = None

    def submit(self, request: Request, folder: Path | None) -> Execution:
        return _LocalExecution(lambda: self._begin(request, folder))

    def _begin(self, request: Request, folder: Path | None) -> Events:
        """Weights are loaded only where there is a place for what they make. Raises FramePackError."""
        from ..generate import generate, resume
        from ..workfolder import WorkFolder

        if folder:
            WorkFolder.reopen(folder)
        else:
            require_folder(day_folder(self._output_dir, datetime.now()))
        if self._engine is None:
            self._engine = self._load()
        known = self._known(request)
        if folder:
            return resume(folder, self._engine, known)
        return generate(request, self._engine, self._output_dir, known=known)


class _LocalExecution:
    def __init__(self, begin: Callable[[], Events]) -> None:
        self._begin = begin
        self._cancelled = False

    def events(self) -> Events:
        return stoppable(self._begin(), lambda: self._cancelled)

    def cancel(self) -> None:
        self._cancelled = True
