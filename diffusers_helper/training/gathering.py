"""Data sets to examples: what is learnt, and what is held out.

All is encoded before the first step; a file that goes or changes afterwards changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

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

T = TypeVar("T")
Group = tuple[int, tuple[int, ...]]
"""The number of a data set, and a shape: what may stand in one batch."""


@dataclass(frozen=True)
class Listed:
    """An entry of the data set with this place, and whether it is held out."""

    place: int
    data_set: DataSet
    entry: Entry
    held_out: bool


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

    def take(self, file: Listed, examples: list[Example]) -> None:
        """Those of one file."""
        if file.held_out:
            self.held_out.extend(examples)
            return
        for example in examples * file.data_set.num_repeats:
            group = (file.place, tuple(example.target.shape))
            self.sizes.setdefault(group, file.data_set.batch_size)
            self.groups.append(group)
            self.learnt.append(example)

    @property
    def batches(self) -> Batches:
        """Of what is learnt."""
        numbers = {group: number for number, group in enumerate(self.sizes)}
        return Batches(tuple(numbers[group] for group in self.groups), tuple(self.sizes.values()))


def listed(training: Training) -> list[list[Listed]]:
    """All entries, data set by data set. Raises InvalidRequest."""
    sets = training.data.data_sets
    entries = [data_set.entries(training.root) for data_set in sets]
    files = [entry.path for each in entries for entry in each]
    aside = held_out(files, training.validation.share, training.loop.seed)
    return [
        [Listed(place, data_set, entry, entry.path in aside) for entry in entries[place]]
        for place, data_set in enumerate(sets)
    ]


def or_left_out(training: Training, make: Callable[[], T]) -> Generator[Event, None, T | None]:
    """What is made of a file. Of one that cannot be used None, with a notice, where that is wished; else the error."""
    try:
        return make()
    except UnusableInput as error:
        if not training.skip_broken:
            raise
        yield Notice(message=f"left out: {error}")
        return None


def gather(training: Training, engine: Engine) -> Generator[Event, None, Gathered]:
    """Encode every file. Raises InvalidRequest and UnusableInput, see ``examples_of``, ``listed`` and ``or_left_out``;
    also where no file is left."""
    found = Gathered()
    for data_set, each in zip(training.data.data_sets, listed(training), strict=True):
        kept = _kept_encodings(training, data_set, engine)
        for number, file in enumerate(each, 1):
            made = yield from or_left_out(training, partial(examples_of, file.entry, data_set, engine, training.kind))
            found.take(file, made or [])
            yield Encoded(data_set=data_set.place, done=number, files=len(each))
        if kept and kept.trouble:
            yield Notice(message=f"{data_set.place}: what was encoded is not kept for another time: {kept.trouble}")
    if not found.learnt:
        raise nothing_left()
    return found


def nothing_left() -> InvalidRequest:
    """What is said where no file can be used."""
    return InvalidRequest("data: no file is left to learn from; all were left out")


def _kept_encodings(training: Training, data_set: DataSet, engine: Engine) -> KeptEncodings | None:
    """Where what is encoded of a data set is kept from now on; None for nowhere."""
    usual = encodings_folder(engine.models_dir) if engine.models_dir else None
    folder = training.root / data_set.cache_directory if data_set.cache_directory else usual
    kept = KeptEncodings(folder, engine.checkpoint, engine.compute) if folder else None
    engine.keep_encodings(kept or keep_nothing)
    return kept
