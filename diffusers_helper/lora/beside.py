"""LoRAs beside the weights: what they add is computed from a linear's inputs and added to its outputs.

The weights stay as they are, whatever numbers they are kept in, so taking a LoRA away gives the model that was there
before, bit for bit. Where a table stands for the modulation linears, it makes its rows with what is added there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..models.modulation import ModulationTable, TabulatedLinear
from ..models.quantise import QuantisedLinear
from ..models.transformer import FramePackTransformer
from .adapters import Adapter
from .layers import LinearShapes
from .reading import LoRA

COPIES_OF_DELTA = 4
"""How many float32 matrices of a delta's size there are at once, at most, while one is made for its linear."""

Adapters = Mapping[str, Adapter]


@dataclass(frozen=True)
class Added:
    """What is added to one linear: adapters where it computes, each with its strength. Their outputs are summed in
    order."""

    parts: tuple[tuple[float, Adapter], ...]

    @property
    def needs_weight(self) -> bool:
        """Whether it depends on the linear's own weight."""
        return any(adapter.needs_weight for _, adapter in self.parts)

    def __call__(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """The outputs y [..., O] of the inputs x [..., I], with what is added; in the memory of y."""
        for strength, adapter in self.parts:
            y.add_(adapter.outputs(x, weight), alpha=strength)
        return y


class BesideLinears:
    """What is beside the linears of a transformer: nothing at first."""

    def __init__(self, transformer: FramePackTransformer, device: torch.device, dtype: torch.dtype) -> None:
        """``device``, ``dtype``: where and in which numbers it computes."""
        self._transformer, self._device, self._dtype = transformer, device, dtype
        self._loaded: dict[str, Adapters] = {}
        self._hooks: list[RemovableHandle] = []

    def keep(self, contents: Iterable[str]) -> None:
        """Detach everything. Of what was loaded, let all go but these contents, which need not be read again."""
        wanted = set(contents)
        self._loaded = {content: adapters for content, adapters in self._loaded.items() if content in wanted}
        self._set({})

    def attach(self, loras: Sequence[tuple[str, LoRA, float]]) -> None:
        """Put these beside the linears, and nothing else: each a content, what has it, and its strength.

        Raises:
            UnusableLora: a weight is NaN or infinite. Nothing is beside them then.
        """
        self.keep(content for content, _, _ in loras)
        for content, lora, _ in loras:
            if content not in self._loaded:
                self._loaded[content] = {
                    module: adapter.on(self._device, self._dtype) for module, adapter in lora.adapters.items()
                }
        parts: dict[str, list[tuple[float, Adapter]]] = {}
        for content, _, strength in loras:
            if not strength:
                continue
            for module, adapter in self._loaded[content].items():
                parts.setdefault(module, []).append((strength, adapter))
        self._set({module: Added(tuple(each)) for module, each in parts.items()})

    def _set(self, added: Mapping[str, Added]) -> None:
        for hook in self._hooks:
            hook.remove()
        linears = {module: self._transformer.get_submodule(module) for module in added}
        tabulated = {module for module, linear in linears.items() if isinstance(linear, TabulatedLinear)}
        if isinstance(self._transformer.modulation, ModulationTable):
            self._transformer.modulation.change({module: added[module] for module in tabulated})
        self._hooks = [
            linear.register_forward_hook(partial(_add, added[module]))
            for module, linear in linears.items()
            if module not in tabulated
        ]


def _add(added: Added, linear: nn.Module, inputs: tuple[Any, ...], outputs: Tensor) -> Tensor:
    """The forward hook of a linear."""
    return added(inputs[0], outputs, own_weight(linear) if added.needs_weight else None)


def own_weight(linear: nn.Module) -> Tensor | None:
    """The weight [O, I] of a linear as numbers; None where it is packed by a library, or in a table."""
    if isinstance(linear, QuantisedLinear):
        return linear.weight_in(torch.float32)
    weight = getattr(linear, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim == 2 else None


def without_weight(lora: LoRA, transformer: FramePackTransformer) -> str | None:
    """The first module whose adapter depends on a weight that is not there as numbers; None where all have theirs."""
    for module, adapter in lora.outline.items():
        linear = transformer.get_submodule(module)
        if adapter.needs_weight and not isinstance(linear, TabulatedLinear) and own_weight(linear) is None:
            return module
    return None


def work_beside(loras: Iterable[LoRA], shapes: LinearShapes) -> float:
    """What they compute beside the linears, as a share of what all linears of these shapes compute."""
    added = sum(adapter.work for lora in loras for adapter in lora.outline.values())
    return added / sum(rows * columns for rows, columns in shapes.values())


def bytes_beside(loras: Iterable[LoRA], dtype: torch.dtype) -> int:
    """What they take where the transformer computes: all factors, and what making the largest delta takes."""
    adapters = [adapter for lora in loras for adapter in lora.outline.values()]
    factors = sum(tensor.numel() for adapter in adapters for tensor in adapter.factors().values())
    dense = (adapter.shape for adapter in adapters if adapter.kind != "low rank")
    largest = max((rows * columns for rows, columns in dense), default=0)
    return factors * dtype.itemsize + COPIES_OF_DELTA * largest * torch.float32.itemsize
