"""What the settings ask of the transformer's weights, and loading it so."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from ..memory.costs import STAY_ON_GPU, Constraints, Precision
from ..memory.plan import MemoryPlan
from ..memory.units import GB
from ..settings import Kernels, Memory, Weights
from ..words import Message
from .fill import empty_transformer, fill
from .load import Compute
from .modulation import tabulate
from .quantise import bitsandbytes, quantise, why_not_multiply
from .quantised_file import kept_file, quantised_folder, quantised_weights
from .shards import Shards, WeightFilter, WeightSource
from .speed import compiles
from .table import Checkpoint
from .transformer import FramePackTransformer

log = logging.getLogger(__name__)

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


def load_transformer(
    checkpoint: Checkpoint,
    compute: Compute,
    plan: MemoryPlan,
    weights: Weights,
    models_dir: Path,
    no_products: Message | None,
    weight_filter: WeightFilter | None = None,
) -> FramePackTransformer:
    """The transformer by the plan: quantised, with a modulation table, in RAM; packed by bitsandbytes, on the device.

    Args:
        no_products: the answer of ``why_no_products``.
        weight_filter: stands between the files and every use of their weights. What it changes takes RAM that the plan
            does not count, and quantised weights are not kept on disk.

    Raises:
        UnusableCheckpoint: its files are damaged, of another model, or have 8 bits already.
    """
    folder, dtype, precision = checkpoint.folders["transformer"], compute.transformer_dtype, plan.precision
    log.info("loading transformer from %s", folder)
    source: WeightSource = Shards(folder) if weight_filter is None else weight_filter(Shards(folder))
    transformer = empty_transformer(folder, dtype)
    if precision == "int8" or precision == "fp8":
        quantise(transformer, precision, multiply=weights.quantised_matmul and not no_products)
    if plan.modulation_table:
        tabulate(transformer, source)
    if precision == "int8" or precision == "fp8":
        cache, content = quantised_folder(models_dir), checkpoint.fingerprint()
        file = None if weight_filter else kept_file(cache, content, precision, dtype)
        source = quantised_weights(transformer, source, folder, file)
    fill(transformer, source, folder)
    if precision == "bnb8" or precision == "bnb4":
        quantise(transformer, precision, compute.device)
    return transformer
