"""What the settings ask of the transformer's weights, and loading it so."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from ..memory.costs import STAY_ON_GPU, Constraints, Precision
from ..memory.filling import FILLINGS, Filling, KeepUntilFull
from ..memory.plan import MemoryPlan
from ..memory.units import GB
from ..settings import Kernels, Memory, Settings, Weights
from ..words import Message
from .fill import empty_transformer, fill
from .kept_weights import Keeping, Made, changed_folder, kept_file, made_slots, made_weights, quantised_folder
from .load import Compute
from .modulation import ModulationTable, tabulate
from .quantise import bitsandbytes, quantise, unpack, why_not_multiply
from .shards import Shards, WeightChange, WeightSource
from .speed import compiles
from .table import Checkpoint
from .transformer import FramePackTransformer

log = logging.getLogger(__name__)

T = TypeVar("T")
BY_NAME: Mapping[str, Precision | Literal["auto"]] = {
    "auto": "auto",
    "off": "as_is",
    **{name: name for name in get_args(Precision)},
}
"""The precision by what the settings call it."""


def constraints_of(weights: Weights, memory: Memory) -> Constraints:
    """What the memory plan shall heed.

    Raises:
        UnusableInput: bitsandbytes is asked for and not installed.
    """
    precision = BY_NAME[weights.quantise]
    if precision in STAY_ON_GPU:
        bitsandbytes()
    return Constraints(
        precision=precision,
        bnb_cpu_offload=weights.bnb_cpu_offload,
        small_host_copy=memory.small_host_copy,
        preserved_bytes=int(memory.least_preserved_gb * GB),
        chunk_size=memory.vae_chunk_size,
        beside={"on": True, "off": False}.get(memory.decode_beside),
    )


def why_no_products(plan: MemoryPlan, compute: Compute, weights: Weights, kernels: Kernels) -> Message | None:
    """Why weights in 8 bits are not multiplied as they are, though that is asked for; None where they are, and where
    nobody asks."""
    if not weights.quantised_matmul or plan.precision not in ("int8", "fp8"):
        return None
    reason = why_not_multiply(plan.precision, compute.device)
    if not reason and compute.device.type == "cuda" and not compiles(kernels, compute.device):
        reason = Message("products.without_compile")
    return Message("products.refused", reason=reason) if reason else None


@dataclass(frozen=True)
class TransformerWeights:
    """What a transformer's weights are made of and how: its files, the plan's numbers, what the settings ask.

    Attributes:
        multiply: 8-bit codes as they are, by the device's own product.
        models_dir: keeps made weights for the next time; None keeps nothing.
        changed_limit_bytes: of changed weights on disk.
        vram_strategy: what of changed weights stays on the device that they are made on, a name in ``FILLINGS``.
    """

    checkpoint: Checkpoint
    compute: Compute
    plan: MemoryPlan
    multiply: bool = False
    models_dir: Path | None = None
    changed_limit_bytes: int = 0
    vram_strategy: str = KeepUntilFull.__name__

    def load(self) -> FramePackTransformer:
        """The transformer by the plan: quantised, with a modulation table, in RAM; packed by bitsandbytes, on the
        device.

        Raises:
            UnusableCheckpoint: its files are damaged, of another model, or have 8 bits already.
        """
        log.info("loading transformer from %s", self._folder)
        transformer = empty_transformer(self._folder, self.compute.transformer_dtype)
        if self._codes:
            quantise(transformer, self._codes, multiply=self.multiply)
        if self.plan.modulation_table:
            tabulate(transformer, {})
        finished(self._fill(transformer, None, KeepUntilFull(torch.device("cpu"))))
        return transformer

    def change(
        self, transformer: FramePackTransformer, change: WeightChange | None, preserved_bytes: int = 0
    ) -> Made[None]:
        """Give a loaded transformer, whose blocks are not swapped, its weights anew, with a change or as the files have
        them. Yields while changed weights are made. Until it has ended the transformer is empty.

        Args:
            preserved_bytes: of the device, which changed weights leave free while they are made.

        Raises:
            UnusableCheckpoint: see ``load``.
            OutOfMemory: see ``made_weights``.
        """
        unpack(transformer, self.compute.transformer_dtype)
        transformer.to("meta")
        yield from self._fill(transformer, change, FILLINGS[self.vram_strategy](self.compute.device, preserved_bytes))

    @property
    def _folder(self) -> Path:
        return self.checkpoint.folders["transformer"]

    @property
    def _codes(self) -> Literal["int8", "fp8"] | None:
        """The kind of weights in 8 bits that are ours."""
        precision = self.plan.precision
        return precision if precision == "int8" or precision == "fp8" else None

    def _fill(self, transformer: FramePackTransformer, change: WeightChange | None, filling: Filling) -> Made[None]:
        source: WeightSource = change(Shards(self._folder)) if change else Shards(self._folder)
        if isinstance(transformer.modulation, ModulationTable):
            transformer.modulation.read_from(source)
        made: dict[str, Tensor] = {}
        if slots := made_slots(transformer, change.names if change else ()):
            asked = (self._folder, slots, self._keeping(change), filling)
            made = yield from made_weights(transformer, source, *asked)
        fill(transformer, source, self._folder, made)
        precision = self.plan.precision
        if precision == "bnb8" or precision == "bnb4":
            quantise(transformer, precision, self.compute.device)

    def _keeping(self, change: WeightChange | None) -> Keeping | None:
        """Where what is made is kept."""
        if self.models_dir is None:
            return None
        content = self.checkpoint.fingerprint() + (f"-{change.content}" if change else "")
        folder = changed_folder(self.models_dir) if change else quantised_folder(self.models_dir)
        as_is = "as_is_table" if self.plan.modulation_table else "as_is"
        kind = (content, self._codes or as_is, self.compute.transformer_dtype)
        return Keeping(kept_file(folder, *kind), self.changed_limit_bytes if change else None)


def weights_of(
    checkpoint: Checkpoint, compute: Compute, plan: MemoryPlan, settings: Settings, no_products: Message | None
) -> TransformerWeights:
    """As the settings ask; ``no_products`` is the answer of ``why_no_products``."""
    return TransformerWeights(
        checkpoint,
        compute,
        plan,
        multiply=settings.weights.quantised_matmul and not no_products,
        models_dir=settings.paths.models_dir,
        changed_limit_bytes=settings.weights.merged_limit,
        vram_strategy=settings.weights.lora_vram_strategy,
    )


def finished(work: Made[T]) -> T:
    """Does all of the work, whatever it yields."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            value: T = end.value
            return value
