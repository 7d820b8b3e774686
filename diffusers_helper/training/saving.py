"""The files of a training: the LoRA, those of it on the way, and the state to go on from.

Each is written whole or not at all, so that a full disk or a killed process leaves what was written before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ..events import Saved
from ..lora.layers import LinearShapes
from .loop import Loop
from .metadata import Facts, metadata
from .training import Training


@dataclass(frozen=True)
class Files:
    """Where a training under way is written to.

    Attributes:
        shapes: of the checkpoint's linears.
        facts: as at the beginning.
    """

    training: Training
    loop: Loop
    shapes: LinearShapes
    facts: Facts

    def last(self) -> Saved:
        """The LoRA by its name, and the state. Raises OutputFailed."""
        return self._written(self.training.target, self.training.state)

    def after_step(self) -> Iterator[Saved]:
        """Those of every so many steps and epochs, and of all but the last step."""
        step, saving = self.loop.step, self.training.saving
        if step == self.training.loop.steps:
            return
        if saving.every_steps and step % saving.every_steps == 0:
            yield self._written(self._of_step(step), self.training.state)
            if old := saving.old_step(step):
                self._of_step(old).unlink(missing_ok=True)
        if self.loop.ends_epochs(saving.every_epochs):
            epoch = self.loop.epoch()
            yield self._written(self._of_epoch(epoch), self.training.state)
            if old := saving.old_epoch(epoch):
                self._of_epoch(old).unlink(missing_ok=True)

    def apart(self) -> Saved:
        """By names that no others have: what was learnt before numbers broke, which may be broken nearly."""
        target = self._of_step(self.loop.step)
        return self._written(target, target.with_name(f"{target.stem}.state.safetensors"))

    def _written(self, target: Path, state: Path) -> Saved:
        written = Saved(step=self.loop.step, path=str(target), state=str(state))
        if not self.loop.processes.is_first:
            return written
        facts = replace(self.facts, step=self.loop.step, epoch=self.loop.epoch())
        told = metadata(self.training, facts, datetime.now().astimezone())
        self.loop.save(state)
        with self.loop.averaged():
            self.loop.network.save(target, self.training.form, told, self.shapes)
        return written

    def _of_step(self, step: int) -> Path:
        return self._named(f"{step:06}")

    def _of_epoch(self, epoch: int) -> Path:
        return self._named(f"epoch{epoch:06}")

    def _named(self, number: str) -> Path:
        target = self.training.target
        return target.with_name(f"{target.stem}-{number}{target.suffix}")
