"""Everything the page and its routes share, made once at the start."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import UnusableCheckpoint, UnusableInput
from ..lora.label import Names, Transformers
from ..lora.shelf import Shelf, shelf_folder
from ..lora.watch import Watch
from ..models.table import EVERY_KIND, FRAMEPACK_BUCKETS, Checkpoint
from ..preparation import defaults
from ..settings import PageSettings
from ..words import Message
from .fetching import Fetching
from .likenesses import Likenesses

if TYPE_CHECKING:
    from ..jobs.checkpoints import Checkpoints
    from ..jobs.queue import JobQueue
    from ..presets import Preset, PresetStore


@dataclass(frozen=True)
class AppContext:
    """The queue, the settings, and what is installed.

    Attributes:
        warnings: keys of texts, shown on top of the page.
        worker_heartbeat: seconds since the worker last showed life.
        fetching: the download that somebody started on the page.
        likenesses: how alike videos are that are compared.
        run: tells this start of the program from an earlier one.
        shelf: where LoRAs lie; in the folder of the settings when left out.
    """

    queue: JobQueue
    settings: PageSettings
    checkpoints: Checkpoints
    presets: PresetStore
    warnings: tuple[str, ...]
    worker_heartbeat: Callable[[], float]
    fetching: Fetching = field(default_factory=Fetching)
    likenesses: Likenesses = field(default_factory=Likenesses)
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    shelf: Shelf | None = None

    @cached_property
    def loras(self) -> Watch:
        """The shelf as it is now, held against what is installed."""
        known = Transformers()

        def installed() -> dict[str, Names]:
            found = {each.name: each.folders.get("transformer") for each in self.checkpoints.installed()}
            return known.names({name: folder for name, folder in found.items() if folder})

        return Watch(self.shelf or Shelf(shelf_folder(self.settings.paths.models_dir)), installed)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The chosen one; None when it cannot be used, ``checkpoint_problem`` then says why and what to do."""
        return self.checkpoints.get()

    @property
    def checkpoint_problem(self) -> Message | None:
        """Why there is no checkpoint; None when there is one."""
        return self.checkpoints.problem

    @property
    def installed_names(self) -> tuple[str, ...]:
        """The checkpoints that can be chosen."""
        return tuple(checkpoint.name for checkpoint in self.checkpoints.installed())

    def shown(self, name: str | None) -> Checkpoint | None:
        """The installed checkpoint of a name that a page shows; the chosen one where it shows none that is here."""
        with suppress(UnusableCheckpoint):
            return self.checkpoints.named(name) if name else self.checkpoint
        return self.checkpoint

    def source(self, name: str | None) -> str:
        """What a job for the checkpoint of this name keeps; without a name that of the chosen one.

        Raises UnusableCheckpoint.
        """
        return self.checkpoints.named(name).source if name else ""

    def defaults(self, checkpoint: Checkpoint | None) -> dict[str, Any]:
        """The fields of a request that have another default than its own: by a checkpoint, and by the settings."""
        return defaults(checkpoint, self.settings.sampling)

    @property
    def startup(self) -> Preset | None:
        """The preset the page opens with: the one that the settings name, else the one that was chosen on the page."""
        if not self.settings.page.preset:
            return self.presets.startup()
        with suppress(UnusableInput):  # It was there at the start; somebody may have removed it since.
            return self.presets.load(self.settings.page.preset)
        return None


def kinds_of(checkpoint: Checkpoint | None) -> tuple[str, ...]:
    """The kinds of results it makes, the one it does best first; all where it is not known."""
    return tuple(checkpoint.kinds if checkpoint else EVERY_KIND)


def sizes_of(checkpoint: Checkpoint | None) -> tuple[str, ...]:
    """The sizes it makes, as a request names them."""
    buckets = checkpoint.buckets if checkpoint else FRAMEPACK_BUCKETS
    return tuple(f"{width}x{height}" for height, width in buckets)
