"""What the settings ask of the transformer's weights, and loading it so.

Several variables ask for the same thing, some from the documents of other versions. Which one counts is a rule, and
what does not count is said: --quantise goes before --fp8-scaled, and that before bitsandbytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import get_args

from ..memory.costs import STAY_ON_GPU, Constraints, Precision
from ..memory.plan import MemoryPlan
from ..memory.units import GB
from ..settings import Settings
from .fill import empty_transformer, fill
from .load import Compute
from .modulation import tabulate
from .quantise import bitsandbytes, quantise, why_not_multiply
from .quantised_file import kept_file, quantised_folder, quantised_weights
from .shards import Shards, Source, WeightFilter
from .speed import compiles
from .table import Checkpoint
from .transformer import FramePackTransformer

log = logging.getLogger(__name__)

BY_NAME: dict[str, Precision] = {"off": "as_is", **{name: name for name in get_args(Precision)}}


def constraints_of(chosen: Settings) -> tuple[Constraints, tuple[str, ...]]:
    """What the memory plan shall heed, and notices about settings that do not count.

    Raises:
        UnusableInput: bitsandbytes is asked for and not installed.
    """
    asked = list(_asked(chosen))
    precision = asked[0][1] if asked else "auto"
    if precision in STAY_ON_GPU:
        bitsandbytes()
    constraints = Constraints(
        precision=precision,
        bnb_cpu_offload=chosen.bnb_cpu_offload,
        small_host_copy=chosen.small_host_copy,
        preserved_bytes=int(chosen.least_preserved_gb * GB),
    )
    return constraints, tuple(_notices(chosen, asked))


def _asked(chosen: Settings) -> Iterator[tuple[str, Precision]]:
    """Every setting that asks for a precision; the first counts."""
    if chosen.quantise != "auto":
        yield f"--quantise {chosen.quantise}", BY_NAME[chosen.quantise]
    if chosen.fp8_scaled:
        yield "--fp8-scaled", "fp8"
    if chosen.bnb_load_in_4bit:
        yield "FRAMEPACK_BNB_LOAD_IN_4BIT", "bnb4"
    elif chosen.use_bnb:
        yield "FRAMEPACK_USE_BNB", "bnb8"


def _notices(chosen: Settings, asked: list[tuple[str, Precision]]) -> Iterator[str]:
    for name, precision in asked[1:]:
        if precision != asked[0][1]:
            yield f"{asked[0][0]} goes before {name}, which has no effect."
    packed = bool(asked) and asked[0][1] in STAY_ON_GPU
    if packed and not chosen.use_bnb and asked[0][0].startswith("FRAMEPACK"):
        yield "FRAMEPACK_BNB_LOAD_IN_4BIT asks for bitsandbytes also without FRAMEPACK_USE_BNB."
    if packed and chosen.use_memory_v2:
        yield "Weights packed by bitsandbytes stay on the GPU: --use-memory-v2 has nothing to swap."
    if chosen.bnb_cpu_offload and not (asked and asked[0][1] == "bnb4"):
        yield "FRAMEPACK_BNB_CPU_OFFLOAD has no effect: only bitsandbytes' 4-bit weights can leave the GPU."


def why_no_products(plan: MemoryPlan, compute: Compute, chosen: Settings) -> str:
    """Why weights in 8 bits are not multiplied as they are, though that is asked for; for the user. Empty where they
    are, and where nobody asks."""
    if not chosen.quantised_matmul or plan.precision not in ("int8", "fp8"):
        return ""
    reason = why_not_multiply(plan.precision, compute.device)
    if not reason and compute.device.type == "cuda" and not compiles(chosen, compute.device):
        reason = "on a GPU its products gain less than rounding the inputs costs, unless --compile makes one of the two"
    return reason and f"--quantised-matmul has no effect: {reason}."


def load_transformer(
    checkpoint: Checkpoint,
    compute: Compute,
    plan: MemoryPlan,
    chosen: Settings,
    no_products: str,
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
    source: Source = Shards(folder) if weight_filter is None else weight_filter(Shards(folder))
    transformer = empty_transformer(folder, dtype)
    if precision == "int8" or precision == "fp8":
        quantise(transformer, precision, multiply=chosen.quantised_matmul and not no_products)
    if plan.modulation_table:
        tabulate(transformer, source)
    if precision == "int8" or precision == "fp8":
        cache, content = quantised_folder(chosen.models_dir), checkpoint.fingerprint()
        file = None if weight_filter else kept_file(cache, content, precision, dtype)
        source = quantised_weights(transformer, source, folder, file)
    fill(transformer, source, folder)
    if precision == "bnb8" or precision == "bnb4":
        quantise(transformer, precision, compute.device)
    return transformer
