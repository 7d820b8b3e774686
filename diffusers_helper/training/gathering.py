"""Data sets to examples: what is learnt, and what is held out."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from ..encoders import keep_nothing
from ..engine import Engine
from ..events import Event, Notice
from .batches import Batches
from .cache import KeptEncodings, encodings_folder
from .dataset import DataSet
from .examples import Example, examples_of
from .training import Training
from .validation import held_out


@dataclass(frozen=True)
class Gathered:
    """The examples of a training, each as often as its data set says; those that are held out once."""

    learnt: list[Example] = field(default_factory=list)
    held_out: list[Example] = field(default_factory=list)

    @property
    def batches(self) -> Batches:
        """Of what is learnt."""
        return Batches.of_one(len(self.learnt))


def gather(training: Training, engine: Engine) -> Generator[Event, None, Gathered]:
    """Encode every file. Raises what ``examples_of`` does, naming the file, and what ``held_out`` does."""
    found = Gathered()
    listed = [(data_set, data_set.entries(training.root)) for data_set in training.data.data_sets]
    files = [entry.path for _, entries in listed for entry in entries]
    aside = held_out(files, training.validation.share, training.loop.seed)
    for data_set, entries in listed:
        kept = _kept_encodings(training, data_set, engine)
        for number, entry in enumerate(entries, 1):
            made = examples_of(entry, data_set, engine, training.kind)
            if entry.path in aside:
                found.held_out.extend(made)
            else:
                found.learnt.extend(made * data_set.num_repeats)
            yield Notice(message=f"{data_set.place}: {number} of {len(entries)} files are encoded")
        if kept and kept.trouble:
            yield Notice(message=f"{data_set.place}: what was encoded is not kept for another time: {kept.trouble}")
    return found


def _kept_encodings(training: Training, data_set: DataSet, engine: Engine) -> KeptEncodings | None:
    """Where what is encoded of a data set is kept from now on; None for nowhere."""
    usual = encodings_folder(engine.models_dir) if engine.models_dir else None
    folder = training.root / data_set.cache_directory if data_set.cache_directory else usual
    kept = KeptEncodings(folder, engine.checkpoint, engine.compute) if folder else None
    engine.keep_encodings(kept or keep_nothing)
    return kept
