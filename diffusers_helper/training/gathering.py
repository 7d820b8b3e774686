"""Data sets to examples: what is learnt, and what is held out.

All is encoded before the first step; a file that goes or changes afterwards changes nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from ..encoders import keep_nothing
from ..engine import Engine
from ..errors import InvalidRequest, UnusableInput
from ..events import Encoded, Event, Notice
from .batches import Batches
from .cache import KeptEncodings, encodings_folder
from .dataset import DataSet, Entry
from .examples import Example, examples_of
from .training import Training
from .validation import held_out

Group = tuple[int, tuple[int, ...]]
"""The number of a data set, and a shape: what may stand in one batch."""


@dataclass(frozen=True)
class Gathered:
    """The examples of a training, each as often as its data set says; those that are held out once.

    Attributes:
        groups: of each that is learnt.
        sizes: of each group how many are a batch.
    """

    learnt: list[Example] = field(default_factory=list)
    held_out: list[Example] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    sizes: dict[Group, int] = field(default_factory=dict)

    def learn(self, examples: list[Example], place: int, data_set: DataSet) -> None:
        """Those of one file of the data set with this number."""
        for example in examples * data_set.num_repeats:
            group = (place, tuple(example.target.shape))
            self.sizes.setdefault(group, data_set.batch_size)
            self.groups.append(group)
            self.learnt.append(example)

    @property
    def batches(self) -> Batches:
        """Of what is learnt."""
        numbers = {group: number for number, group in enumerate(self.sizes)}
        return Batches(tuple(numbers[group] for group in self.groups), tuple(self.sizes.values()))


def gather(training: Training, engine: Engine) -> Generator[Event, None, Gathered]:
    """Encode every file.

    Raises:
        InvalidRequest, UnusableInput: see ``examples_of`` and ``held_out``; what names a file is told and the file left
            out where the training wishes it so, unless none is left.
    """
    found = Gathered()
    listed = [data_set.entries(training.root) for data_set in training.data.data_sets]
    files = [entry.path for entries in listed for entry in entries]
    aside = held_out(files, training.validation.share, training.loop.seed)
    for place, (data_set, entries) in enumerate(zip(training.data.data_sets, listed, strict=True)):
        kept = _kept_encodings(training, data_set, engine)
        for number, entry in enumerate(entries, 1):
            made = yield from _examples(entry, data_set, training, engine)
            if entry.path in aside:
                found.held_out.extend(made)
            else:
                found.learn(made, place, data_set)
            yield Encoded(data_set=data_set.place, done=number, files=len(entries))
        if kept and kept.trouble:
            yield Notice(message=f"{data_set.place}: what was encoded is not kept for another time: {kept.trouble}")
    if not found.learnt:
        raise InvalidRequest("data: no file is left to learn from; all were left out")
    return found


def _examples(
    entry: Entry, data_set: DataSet, training: Training, engine: Engine
) -> Generator[Event, None, list[Example]]:
    """Of one file; none of one that cannot be used, where that is wished."""
    try:
        return examples_of(entry, data_set, engine, training.kind)
    except UnusableInput as error:
        if not training.skip_broken:
            raise
        yield Notice(message=f"left out: {error}")
        return []


def _kept_encodings(training: Training, data_set: DataSet, engine: Engine) -> KeptEncodings | None:
    """Where what is encoded of a data set is kept from now on; None for nowhere."""
    usual = encodings_folder(engine.models_dir) if engine.models_dir else None
    folder = training.root / data_set.cache_directory if data_set.cache_directory else usual
    kept = KeptEncodings(folder, engine.checkpoint, engine.compute) if folder else None
    engine.keep_encodings(kept or keep_nothing)
    return kept
