"""A request's LoRAs: found on the shelf, held against the checkpoint, beside its transformer's linears or merged into
its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from .errors import UnusableLora
from .lora.bases import shapes_in
from .lora.beside import BesideLinears, bytes_beside, without_weight, work_beside
from .lora.file import refused, shown_key
from .lora.layers import LinearShapes
from .lora.merge import Merge
from .lora.reading import LoRA, read_lora
from .lora.shelf import Shelf
from .models.compile import is_compiled
from .models.kept_weights import Made
from .models.table import Checkpoint
from .models.transformer import FramePackTransformer
from .models.weights import TransformerWeights
from .request import Lora, Request
from .sections.plan import SectionPlan
from .words import Message

MOST_KEYS_TOLD = 3
MOST_BESIDE, MOST_WORK_BESIDE = 4, 0.25
"""LoRAs beside the linears, and their work as a share of what these compute; what is more is merged by itself. How many
counts too, since each reads and writes the tokens once more, whatever its rank is."""
MOST_BYTES_BESIDE = 10**9
"""Of factors on a GPU that is too small for all blocks, which they do not leave with their blocks."""
NOTHING = ""
"""The content of the weights that nothing is merged into."""


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


@dataclass(frozen=True)
class Chosen:
    """A request's LoRAs, opened, and how they act.

    Attributes:
        why_merged: None where they act beside the linears.
    """

    opened: tuple[Opened, ...] = ()
    why_merged: Message | None = None

    @property
    def acting(self) -> tuple[Opened, ...]:
        """A LoRA of weight 0 is left out: nothing is computed for it, and no bit differs."""
        return tuple(each for each in self.opened if each.asked.acts)

    @property
    def beside(self) -> tuple[Opened, ...]:
        """Those beside the linears."""
        return () if self.why_merged else self.acting

    def merge(self, device: torch.device) -> Merge | None:
        """What is merged, by arithmetic on ``device``; None for nothing."""
        if not self.why_merged or not self.acting:
            return None
        return Merge(tuple((each.asked.sha256, each.lora, each.asked.weight) for each in self.acting), device)


class Loras:
    """The LoRAs of one transformer, for one job after the other.

    What a job's LoRAs consist of stays where the transformer computes until a job comes that does not ask for it; so
    another weight costs nothing, and nothing of it travels with blocks that are swapped. What is merged stays in the
    weights until a job comes that asks for other LoRAs or weights of them, or for none.
    """

    def __init__(
        self, transformer: FramePackTransformer, checkpoint: Checkpoint, weights: TransformerWeights, shelf: Shelf
    ) -> None:
        self._transformer, self._checkpoint, self._weights, self._shelf = transformer, checkpoint, weights, shelf
        self._device, self._dtype = weights.compute.device, weights.compute.transformer_dtype
        self._beside = BesideLinears(transformer, self._device, self._dtype)
        self._attached: tuple[Opened, ...] = ()
        self._merged: str | None = NOTHING

    @cached_property
    def _shapes(self) -> LinearShapes:
        """Of the linears as the checkpoint has them, whatever stands in their places now."""
        return shapes_in(self._checkpoint.folders["transformer"])

    def open(self, request: Request) -> Chosen:
        """Those of a request; changes nothing.

        Raises:
            UnusableLora: one is not there, is another file by now, is none, is of another model, or cannot act here.
        """
        if not request.loras:
            return Chosen()
        opened = open_loras(request.loras, self._shapes, self._shelf)
        changing = next((each.name for each in request.loras if each.changes), None)
        if request.lora_mode == "merged":
            if changing is not None:
                raise UnusableLora(Message("lora.changes", name=changing))
            return Chosen(opened, Message("lora.merged_as_asked"))
        if request.lora_mode == "auto" and changing is None:
            return Chosen(opened, self._why_merged(opened))
        if refusal := self._why_not_beside(opened):
            raise UnusableLora(Message("lora.changes_nowhere", name=changing)) if changing is not None else refusal
        return Chosen(opened)

    def _why_merged(self, opened: Sequence[Opened]) -> Message | None:
        """Why these are merged where that is left to this program; None where they are not."""
        if self._why_not_beside(opened):
            return Message("lora.no_place")
        loras = [each.lora for each in Chosen(tuple(opened)).acting]
        if len(loras) > MOST_BESIDE or work_beside(loras, self._shapes) > MOST_WORK_BESIDE:
            return Message("lora.much_work")
        if self._weights.plan.residency["transformer"] == "swapped":
            size = bytes_beside(loras, self._dtype)
            return Message("lora.much_memory", size=size) if size > MOST_BYTES_BESIDE else None
        return None

    def _why_not_beside(self, opened: Sequence[Opened]) -> UnusableLora | None:
        if is_compiled(self._transformer):
            return UnusableLora(Message("lora.compiled"))
        for each in opened:
            if module := without_weight(each.lora, self._transformer):
                return refused(each.path, Message("lora.no_weight", module=module))
        return None

    def is_merged(self, chosen: Chosen) -> bool:
        """Whether the weights are those that these ask for."""
        wanted = chosen.merge(self._device)
        return self._merged == (wanted.content if wanted else NOTHING)

    def check_numbers(self, chosen: Chosen) -> None:
        """Read all that is to be merged; raises UnusableLora for NaN and infinite weights."""
        if wanted := chosen.merge(self._device):
            wanted.check()

    def merge(self, chosen: Chosen, preserved_bytes: int) -> Made[None]:
        """Let the weights be those that these ask for, and nothing beside them; see ``TransformerWeights.change``."""
        wanted = chosen.merge(self._device)
        self._beside.keep(())
        self._merged = None
        yield from self._weights.change(self._transformer, wanted, preserved_bytes)
        self._merged = wanted.content if wanted else NOTHING

    def keep(self, chosen: Chosen) -> None:
        """Detach all; what these consist of may stay where it is."""
        self._beside.keep(each.asked.sha256 for each in chosen.beside)

    def bytes_of(self, chosen: Chosen) -> int:
        """What they take beside the linears where the transformer computes."""
        different = {each.asked.sha256: each.lora for each in chosen.beside}
        return bytes_beside(different.values(), self._dtype)

    def attach(self, chosen: Chosen) -> None:
        """Put those beside the linears that act there, and nothing else. Raises UnusableLora for NaN and infinite
        weights."""
        self._attached = chosen.beside
        self._attach_at(0.0)

    def turn_to(self, section: SectionPlan) -> None:
        """What is attached gets the weights of this section; nothing is read for it."""
        if any(each.asked.changes for each in self._attached):
            self._attach_at(section.place)

    def _attach_at(self, place: float) -> None:
        self._beside.attach([(each.asked.sha256, each.lora, each.asked.weight_at(place)) for each in self._attached])

    def notices(self, chosen: Chosen) -> list[Message]:
        """What is to know of them."""
        told = [notice for each in chosen.opened for notice in each.notices(self._shelf)]
        if chosen.why_merged and chosen.acting:
            where = Message("lora.on_gpu" if self._device.type == "cuda" else "lora.on_cpu")
            told.append(Message("lora.merged", count=len(chosen.acting), where=where, reason=chosen.why_merged))
        return told
