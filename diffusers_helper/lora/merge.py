"""LoRAs merged into the weights: what they add is in the weights that are loaded, and costs nothing while it acts.

The weights of the files stay as they are, and are loaded again when the LoRAs go: nothing is ever subtracted. Each
weight becomes W + sum of strength * delta, in float32, before it is rounded or quantised. What depends on the weight
depends on that of the file, whatever else is merged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..models.shards import WeightSource
from .adapters import Adapter
from .reading import LoRA

FORM = 1
"""Of the arithmetic: what was made in another one is not taken from the disk."""


@dataclass(frozen=True)
class Merge:
    """LoRAs to be merged, as a ``WeightChange``.

    Attributes:
        loras: the SHA-256 of each one's content, what has it, and its strength; they are added in this order.
        device: where the arithmetic is done, and where changed weights are handed out.
    """

    loras: tuple[tuple[str, LoRA, float], ...]
    device: torch.device

    @cached_property
    def content(self) -> str:
        """See WeightChange."""
        said = [FORM, *([sha256, strength] for sha256, _, strength in self.loras)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]

    @cached_property
    def names(self) -> Collection[str]:
        """See WeightChange."""
        return frozenset(f"{module}.weight" for _, lora, _ in self.loras for module in lora.outline)

    def check(self) -> None:
        """Read every factor; raises UnusableLora where a weight is NaN or infinite."""
        for _, lora, _ in self.loras:
            for module in lora.outline:
                lora.adapters[module]

    def __call__(self, source: WeightSource) -> WeightSource:
        return _Merged(source, self)

    def parts(self, name: str) -> Iterator[tuple[float, Adapter]]:
        """Strength and adapter of each LoRA that changes the weight ``name``."""
        module = name.removesuffix(".weight")
        for _, lora, strength in self.loras:
            if module in lora.outline:
                yield strength, lora.adapters[module].on(self.device, torch.float32)


class _Merged(Mapping[str, Tensor]):
    """A source's weights, those in float32 that are changed."""

    def __init__(self, source: WeightSource, merge: Merge) -> None:
        self._source, self._merge = source, merge

    def __getitem__(self, name: str) -> Tensor:
        weight = self._source[name]
        if name not in self._merge.names:
            return weight
        changed = weight.to(self._merge.device, torch.float32, copy=True)
        weight = weight.to(self._merge.device)
        for strength, adapter in self._merge.parts(name):
            adapter.merge_into(changed, strength, weight)
        return changed

    def __contains__(self, name: object) -> bool:
        """Without merging."""
        return name in self._source

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)
