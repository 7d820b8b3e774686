"""A request's LoRAs: found on the shelf, held against the checkpoint, put beside its transformer's linears."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .errors import UnusableLora
from .lora.bases import shapes_in
from .lora.beside import BesideLinears, bytes_beside, without_weight
from .lora.file import refused, shown_key
from .lora.layers import LinearShapes
from .lora.reading import LoRA, read_lora
from .lora.shelf import Shelf
from .models.compile import is_compiled
from .models.load import Compute
from .models.table import Checkpoint
from .models.transformer import FramePackTransformer
from .request import Lora
from .words import Message

MOST_KEYS_TOLD = 3


@dataclass(frozen=True)
class Opened:
    """A request's LoRA with its file, of which only the header was read."""

    asked: Lora
    path: Path
    lora: LoRA

    def notices(self, shelf: Shelf) -> Iterator[Message]:
        """What is to know of it."""
        name = self.asked.name
        if shelf.is_outside(self.path):
            yield Message("lora.outside", name=name, folder=shelf.place)
        elif (found := shelf.name_of(self.path)) != name:
            yield Message("lora.moved", name=name, found=found)
        if keys := self.lora.unmatched:
            some = ", ".join(map(shown_key, keys[:MOST_KEYS_TOLD]))
            yield Message("lora.without_effect", name=name, count=len(keys), all=self.lora.keys, keys=some)


def open_loras(asked: Sequence[Lora], shapes: LinearShapes, shelf: Shelf) -> tuple[Opened, ...]:
    """Find their files and read their headers; raises UnusableLora."""
    found = ((each, shelf.find(each.name, each.sha256)) for each in asked)
    return tuple(Opened(each, path, read_lora(path, shapes)) for each, path in found)


class Loras:
    """The LoRAs of one transformer, for one job after the other.

    What a job's LoRAs consist of stays where the transformer computes until a job comes that does not ask for it; so
    another weight costs nothing, and nothing of it travels with blocks that are swapped.
    """

    def __init__(
        self, transformer: FramePackTransformer, checkpoint: Checkpoint, compute: Compute, shelf: Shelf
    ) -> None:
        self._transformer, self._checkpoint, self._shelf = transformer, checkpoint, shelf
        self._dtype = compute.transformer_dtype
        self._beside = BesideLinears(transformer, compute.device, compute.transformer_dtype)

    @cached_property
    def _shapes(self) -> LinearShapes:
        """Of the linears as the checkpoint has them, whatever stands in their places now."""
        return shapes_in(self._checkpoint.folders["transformer"])

    def open(self, asked: Sequence[Lora]) -> tuple[Opened, ...]:
        """Those of a request; changes nothing.

        Raises:
            UnusableLora: one is not there, is another file by now, is none, is of another model, or cannot act here.
        """
        if not asked:
            return ()
        if is_compiled(self._transformer):
            raise UnusableLora(Message("lora.compiled"))
        opened = open_loras(asked, self._shapes, self._shelf)
        for each in opened:
            if module := without_weight(each.lora, self._transformer):
                raise refused(each.path, Message("lora.no_weight", module=module))
        return opened

    def keep(self, opened: Sequence[Opened]) -> None:
        """Detach all; what these consist of may stay where it is."""
        self._beside.keep(each.asked.sha256 for each in _acting(opened))

    def bytes_of(self, opened: Sequence[Opened]) -> int:
        """What they take where the transformer computes."""
        different = {each.asked.sha256: each.lora for each in _acting(opened)}
        return bytes_beside(different.values(), self._dtype)

    def attach(self, opened: Sequence[Opened]) -> None:
        """Put them beside the linears, and nothing else. Raises UnusableLora for NaN and infinite weights."""
        self._beside.attach([(each.asked.sha256, each.lora, each.asked.weight) for each in _acting(opened)])

    def notices(self, opened: Sequence[Opened]) -> list[Message]:
        """What is to know of them."""
        return [notice for each in opened for notice in each.notices(self._shelf)]


def _acting(opened: Sequence[Opened]) -> list[Opened]:
    """A LoRA of weight 0 is left out: nothing is computed for it, and no bit differs."""
    return [each for each in opened if each.asked.weight]
