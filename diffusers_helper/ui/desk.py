"""The desk: everything the page and its routes share, made once at the start."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import UnusableCheckpoint, UnusableInput
from ..models.table import FRAMEPACK_BUCKETS, Checkpoint
from ..settings import PageSettings
from .fetching import Fetching

if TYPE_CHECKING:
    from ..jobs.queue import JobQueue
    from ..presets import Preset, PresetStore


class CheckpointLookup:
    """The checkpoint of the settings; looked for again as long as it cannot be used, since it may be downloaded."""

    def __init__(self, find: Callable[[], Checkpoint]) -> None:
        self._find = find
        self._found: Checkpoint | None = None
        self.problem = ""

    def __call__(self) -> Checkpoint | None:
        """None when it cannot be used; ``problem`` then says why."""
        if self._found is None:
            try:
                self._found, self.problem = self._find(), ""
            except UnusableCheckpoint as error:
                self.problem = str(error)
        return self._found


@dataclass(frozen=True)
class Desk:
    """What lies on the desk.

    Attributes:
        warnings: keys of texts, shown on top of the page.
        worker_heartbeat: seconds since the worker last showed life.
        fetching: the download that somebody started on the page.
        run: tells this start of the program from an earlier one.
    """

    queue: JobQueue
    settings: PageSettings
    lookup: CheckpointLookup
    presets: PresetStore
    warnings: tuple[str, ...]
    worker_heartbeat: Callable[[], float]
    fetching: Fetching = field(default_factory=Fetching)
    run: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def checkpoint(self) -> Checkpoint | None:
        """None when it cannot be used; ``checkpoint_problem`` then says why and what to do."""
        return self.lookup()

    @property
    def checkpoint_problem(self) -> str:
        """Why there is no checkpoint; empty when there is one."""
        return self.lookup.problem

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds the checkpoint makes, the one it does best first."""
        checkpoint = self.checkpoint
        return checkpoint.kinds if checkpoint else ("framepack", "f1")

    @property
    def sizes(self) -> tuple[str, ...]:
        """The sizes the checkpoint makes, as a request names them."""
        checkpoint = self.checkpoint
        buckets = checkpoint.buckets if checkpoint else FRAMEPACK_BUCKETS
        return tuple(f"{width}x{height}" for height, width in buckets)

    @property
    def startup(self) -> Preset | None:
        """The preset the page opens with: the one that the settings name, else the one that was chosen on the page."""
        if not self.settings.preset:
            return self.presets.startup()
        with suppress(UnusableInput):  # It was there at the start; somebody may have removed it since.
            return self.presets.load(self.settings.preset)
        return None
