"""What is known of a LoRA: what its file says, and what is measured of its adapters. Nothing is loaded for it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .adapters import Adapter
from .dialects import DIALECTS, is_of_text_encoder
from .origin import base_model, foreign_model
from .reading import LoRA
from .said import said_in


@dataclass(frozen=True)
class Effect:
    """How much a module is changed at strength 1.

    Attributes:
        norm: the Frobenius norm of the delta; None where it depends on the module's weight (DoRA).
        per_weight: the root of the mean square over the delta's entries, which can be compared between modules.
    """

    module: str
    norm: float | None
    per_weight: float | None


@dataclass(frozen=True)
class Passport:
    """A LoRA for people and for the shelf.

    Attributes:
        file: its name.
        file_bytes: its size.
        fits: the checkpoint that it was held against.
        dialects: how it names its tensors.
        base: the model that it was made for; by the names of its layers where nothing else tells.
        base_said: that something else tells: its metadata, or names that only another model has.
        foreign: that this is a model whose LoRAs have no meaningful effect here.
        kinds: kind of adapter -> number of modules.
        ranks, alphas, scales: every one that occurs, with its number of modules. alpha None: not given, so the rank.
        numbers: every type of number that occurs.
        keys, unmatched: how many tensors it has; those that name nothing here, and have no effect.
        of_text_encoders: how many of those change a text encoder.
        effects: of every module.
        one_frame: indices and switches that one-frame inference must be given as in training.
        settings: of the training, as its program has written them.
    """

    file: str
    file_bytes: int
    fits: str
    dialects: tuple[str, ...]
    base: str
    base_said: bool
    foreign: bool
    kinds: Mapping[str, int]
    ranks: Mapping[int, int]
    alphas: Mapping[float | None, int]
    scales: Mapping[float, int]
    numbers: tuple[str, ...]
    keys: int
    unmatched: tuple[str, ...]
    of_text_encoders: int
    effects: tuple[Effect, ...]
    title: str
    notes: str
    trigger_words: tuple[str, ...]
    one_frame: Mapping[str, Any]
    settings: Mapping[str, str]

    @property
    def modules(self) -> int:
        """How many linears it changes."""
        return len(self.effects)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, whose keys are texts: what is counted becomes a list of pairs."""
        content = dataclasses.asdict(self)
        for name in ("ranks", "alphas", "scales"):
            content[name] = [list(pair) for pair in content[name].items()]
        return content


def passport_of(lora: LoRA, fits: str = "") -> Passport:
    """Read every adapter once, one after the other. Raises UnusableLora for NaN and infinite weights."""
    keys, outline, metadata = tuple(lora.adapters), lora.outline.values(), lora.metadata
    named = (*lora.unmatched, *keys)
    base, said = base_model(named, metadata), said_in(metadata)
    return Passport(
        file=lora.path.name,
        file_bytes=lora.file_bytes,
        fits=fits,
        dialects=lora.dialects,
        base=base or _naming(lora),
        base_said=bool(base),
        foreign=bool(foreign_model(named, metadata)),
        kinds=dict(Counter(each.kind for each in outline)),
        ranks=_sorted(Counter(each.rank for each in outline if each.rank is not None)),
        alphas=dict(Counter(each.alpha for each in outline)),
        scales=_sorted(Counter(each.scale for each in outline)),
        numbers=tuple(sorted({_dtype(tensor) for each in outline for tensor in each.factors().values()})),
        keys=lora.keys,
        unmatched=lora.unmatched,
        of_text_encoders=sum(map(is_of_text_encoder, lora.unmatched)),
        effects=tuple(_effect(module, adapter) for module, adapter in lora.adapters.items()),
        title=said.title,
        notes=said.notes,
        trigger_words=said.trigger_words,
        one_frame=said.one_frame,
        settings=said.settings,
    )


def _naming(lora: LoRA) -> str:
    return next(dialect.naming for dialect in DIALECTS if dialect.name in lora.dialects)


def _effect(module: str, adapter: Adapter) -> Effect:
    norm = adapter.norm()
    return Effect(module, norm, None if norm is None else norm / math.sqrt(math.prod(adapter.shape)))


def _sorted(counted: Counter[Any]) -> Mapping[Any, int]:
    return dict(sorted(counted.items()))


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
