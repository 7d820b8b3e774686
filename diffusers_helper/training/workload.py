"""What a training asks of memory: before anything is loaded by its data sets, and then by its examples.

Shapes: latents are [1, C, T, H, W]; a token is two rows and two columns of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from ..lora.bases import shapes_in
from ..memory.costs import TEXT_TOKENS, Cached, Learning, Stored, Workload
from ..models.table import Checkpoint
from .dataset import DataSet
from .examples import Example
from .network import Network
from .training import Training

BYTES_PER_NUMBER = 16
"""Of what is trained, in float32: itself, its gradient, and AdamW's two means."""
LIGHT = ("adamw", "adamw8bit", "adafactor", "sgd", "muon")
"""Optimisers that keep no more; others may keep twice as much."""
WIDENED = 1.6
"""peft multiplies all kinds but LoRA in float32, beside 16 bits: activations are so many times as large, counted."""
COARSE = {"latents_history_2x": 2, "latents_history_4x": 4}


def expected_workload(training: Training, checkpoint: Checkpoint) -> Workload:
    """Of the largest example that the data sets can have, by their sizes and places in time."""
    largest = max((_of_data_set(each, checkpoint) for each in training.data.data_sets), key=lambda each: each.tokens)
    shapes = shapes_in(checkpoint.folders["transformer"])
    numbers = sum(training.network.rank * sum(shape[-2:]) for name, shape in shapes.items() if "blocks." in name)
    return _learning(training, largest, numbers)


def workload_of(training: Training, examples: Sequence[Example], network: Network) -> Workload:
    """Of the largest example."""
    different = {id(example): example for example in examples}.values()
    tokens = max(_tokens(example.target, example.inputs()) for example in different)
    rows, columns = examples[0].target.shape[-2:]
    return _learning(training, replace(Workload.of(8 * rows, 8 * columns), tokens=tokens), network.numbers)


def _learning(training: Training, workload: Workload, numbers: int) -> Workload:
    whole = training.network.kind == "lora"
    kept = whole and not training.checkpointing
    ways: tuple[Stored, ...] = ("kept", "again", "in_ram") if kept else ("again", "in_ram")
    tokens = workload.tokens if whole else int(WIDENED * workload.tokens)
    return replace(
        workload, tokens=tokens, cached=Cached(), lora_bytes=numbers * _bytes(training), learning=Learning(ways)
    )


def _bytes(training: Training) -> int:
    """Of each number that is trained: with what its optimiser and the average keep."""
    keeps = 0 if training.loop.optimiser.lower() in LIGHT else 8
    return BYTES_PER_NUMBER + keeps + (4 if training.loop.ema_decay else 0)


def _of_data_set(data_set: DataSet, checkpoint: Checkpoint) -> Workload:
    width, height = data_set.resolution or max(checkpoint.buckets, key=math.prod)[::-1]
    whole = Workload.of(height, width, data_set.fp_latent_window_size)
    if data_set.result == "video":
        return whole
    frame = (height // 16) * (width // 16)
    shown = 1 + len(data_set.indices) + (not data_set.fp_1f_no_post)
    return replace(whole, tokens=(shown + 1) * frame + TEXT_TOKENS)


def _tokens(target: Tensor, inputs: dict[str, Tensor]) -> int:
    """Of one call of the transformer."""
    rows, columns = (side // 2 for side in target.shape[-2:])
    clean = inputs["latents_clean"].shape[2] if "latents_clean" in inputs else 0
    coarse = sum(
        math.prod(_up(size, factor) for size in (inputs[name].shape[2], rows, columns))
        for name, factor in COARSE.items()
        if name in inputs
    )
    told = _lengths((inputs["encoder_hidden_states"], inputs["image_embeds"]))
    return (target.shape[2] + clean) * rows * columns + coarse + told


def _up(size: int, factor: int) -> int:
    return -(-size // factor)


def _lengths(streams: Iterable[Tensor]) -> int:
    return sum(stream.shape[1] for stream in streams)
