"""Which examples are learnt together. A batch is of one data set and one size; of its losses the mean is learnt.

Its examples go through the model one after the other, so a batch takes the memory of one example; what a step changes
is the same as if they went together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Batches:
    """How examples come to batches.

    Attributes:
        groups: of each example the number of its group, of which alone a batch is made.
        sizes: of each group how many examples a batch has; what is left over is a smaller one.
    """

    groups: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of_one(cls, examples: int) -> Batches:
        """Each example by itself."""
        return cls((0,) * examples, (1,))

    def told(self) -> list[list[int]]:
        """As numbers: where they are the same, an order of examples means the same."""
        return [list(self.groups), list(self.sizes)]

    def __len__(self) -> int:
        """How many there are of all examples: an epoch."""
        return sum(-(-count // self.sizes[group]) for group, count in Counter(self.groups).items())

    def of(self, order: Iterable[int]) -> list[list[int]]:
        """All examples, whose numbers come in ``order``, in batches; one comes as soon as it is whole."""
        waiting: dict[int, list[int]] = {}
        found = []
        for number in order:
            group = self.groups[number]
            batch = waiting.setdefault(group, [])
            batch.append(number)
            if len(batch) == self.sizes[group]:
                found.append(waiting.pop(group))
        return [*found, *waiting.values()]
