"""What the settings ask of the transformer's weights, and loading it so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from ..memory.costs import STAY_ON_GPU, Constraints, Precision
from ..memory.plan import MemoryPlan
from ..memory.units import GB
from ..settings import Kernels, Memory, Weights
from .load import Compute, load_as_it_is
from .modulation import tabulate
from .quantise import bitsandbytes, quantise, why_not_multiply
from .quantised_file import load_quantised, quantised_folder
from .shards import Shards
from .speed import compiles
from .table import Checkpoint
from .transformer import FramePackTransformer

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
    )


def why_no_products(plan: MemoryPlan, compute: Compute, weights: Weights, kernels: Kernels) -> str:
    """Why weights in 8 bits are not multiplied as they are, though that is asked for; for the user. Empty where they
    are, and where nobody asks."""
    if not weights.quantised_matmul or plan.precision not in ("int8", "fp8"):
        return ""
    reason = why_not_multiply(plan.precision, compute.device)
    if not reason and compute.device.type == "cuda" and not compiles(kernels, compute.device):
        reason = "on a GPU its products gain less than rounding the inputs costs, unless --compile makes one of the two"
    return reason and f"--quantised-matmul has no effect: {reason}."


def load_transformer(
    checkpoint: Checkpoint, compute: Compute, plan: MemoryPlan, weights: Weights, models_dir: Path, no_products: str
) -> FramePackTransformer:
    """The transformer by the plan: quantised, with a modulation table, in RAM; packed by bitsandbytes, on the device.

    ``no_products``: the answer of ``why_no_products``.

    Raises:
        UnusableCheckpoint: its files are damaged, of another model, or have 8 bits already.
    """
    folder, dtype = checkpoint.folders["transformer"], compute.transformer_dtype
    if plan.precision in ("int8", "fp8"):
        multiply = weights.quantised_matmul and not no_products
        cache, content = quantised_folder(models_dir), checkpoint.fingerprint()
        return load_quantised(folder, plan.precision, dtype, cache, content, plan.modulation_table, multiply)
    transformer = load_as_it_is(checkpoint, compute)
    if plan.modulation_table:
        tabulate(transformer, Shards(folder))
    if plan.precision == "bnb4" or plan.precision == "bnb8":
        quantise(transformer, plan.precision, compute.device)
    return transformer
