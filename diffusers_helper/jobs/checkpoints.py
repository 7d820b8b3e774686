"""The checkpoints that are installed, and the one that is chosen for new jobs.

People name a checkpoint by its name, and only an installed one; a job keeps its source, by which it is found again.
Nothing is remembered of the files: what is downloaded or removed while the program runs counts at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import UnusableCheckpoint
from ..media.files import written_whole
from ..models.table import CHECKPOINTS, Checkpoint
from ..names import quoted
from ..words import Message


class Checkpoints:
    """What is installed, and what is chosen.

    A choice is kept, and holds until the settings name another checkpoint than when it was made.
    """

    def __init__(
        self, find: Callable[[str], Checkpoint], initial: str, kept: Path, known: Iterable[str] = CHECKPOINTS
    ) -> None:
        """``find``: by name or folder; ``initial``: the one of the settings; ``kept``: the file of the choice."""
        self._find, self._initial, self._kept = find, initial, kept
        self._known = tuple(dict.fromkeys((initial, *known)))
        self._chosen = self._read()

    def find(self, source: str = "") -> Checkpoint:
        """The checkpoint of a job's source; the chosen one where it is empty. Raises UnusableCheckpoint."""
        try:
            return self._find(source or self._chosen)
        except UnusableCheckpoint as error:
            if not source:
                raise
            gone = Message("command.checkpoint_gone", name=Path(source).name, reason=error.said)
            raise UnusableCheckpoint(gone) from None

    def get(self, source: str = "") -> Checkpoint | None:
        """The same; None where it cannot be used."""
        with suppress(UnusableCheckpoint):
            return self.find(source)
        return None

    @property
    def problem(self) -> Message | None:
        """Why the chosen one cannot be used; None when it can."""
        try:
            self.find()
        except UnusableCheckpoint as error:
            return error.said
        return None

    def installed(self) -> tuple[Checkpoint, ...]:
        """All that are complete, that of the settings first. Of two with one name, the first."""
        found: dict[str, Checkpoint] = {}
        for name in self._known:
            with suppress(UnusableCheckpoint):
                checkpoint = self._find(name)
                found.setdefault(checkpoint.name, checkpoint)
        return tuple(found.values())

    def named(self, name: str) -> Checkpoint:
        """The installed one of that name. Raises UnusableCheckpoint."""
        installed = {checkpoint.name: checkpoint for checkpoint in self.installed()}
        if name not in installed:
            there = ", ".join(installed) or Message("words.none")
            raise UnusableCheckpoint(Message("command.checkpoint_unknown", name=quoted(name), installed=there))
        return installed[name]

    def choose(self, name: str) -> Checkpoint:
        """Take an installed one for new jobs. Raises UnusableCheckpoint, OutputFailed."""
        checkpoint = self.named(name)
        with written_whole(self._kept) as part:
            part.write_text(json.dumps({"chosen": checkpoint.source, "instead_of": self._initial}), encoding="utf-8")
        self._chosen = checkpoint.source
        return checkpoint

    def _read(self) -> str:
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            kept = json.loads(self._kept.read_text(encoding="utf-8"))
            if kept["instead_of"] == self._initial and self.get(str(kept["chosen"])):
                return str(kept["chosen"])
        return self._initial
