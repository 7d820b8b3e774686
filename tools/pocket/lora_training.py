"""What every LoRA of the pocket is trained and written with.

Low rank, one adapter for every linear of the blocks but the modulation's, names and alpha as musubi writes them.

Shape legend: R rank, O outputs and I inputs of a linear.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from diffusers_helper.models.load import Compute, load_as_it_is
from diffusers_helper.models.quantise import quantisable
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.models.transformer import FramePackTransformer
from tools.pocket import data
from tools.pocket.attention import use_small_attention
from tools.pocket.train_transformer import draw_sigma, load_models, velocity_loss

LOG = logging.getLogger(__name__)
CPU = torch.device("cpu")


class Scenes(Protocol):
    """What a LoRA learns from."""

    def batch(self) -> data.Batch:
        """What one step is made with."""
        ...


class Factors(nn.Module):
    """down [R, I] and up [O, R] beside a linear; up begins with nothing."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        linear.register_forward_hook(lambda _, given, made: made + self(given[0]))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.linear(x, self.down), self.up)


Factored = dict[str, Factors]


def train(
    model: FramePackTransformer, scenes: Scenes, options: argparse.Namespace, rng: np.random.Generator
) -> Factored:
    """Factors for every linear of the blocks, by name. ``options`` are those of ``parser``."""
    factors = {name: Factors(linear, options.rank) for name, linear in quantisable(model).items()}
    if options.begin_with:
        take_over(factors, load_file(options.begin_with))
    parameters = [parameter for each in factors.values() for parameter in each.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.rate, weight_decay=0.0)
    began, step, seen = time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - began) / (60 * options.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1, step / 20) * (1 - done)
        batch = scenes.batch()
        tokens = batch.targets[0, 0].numel() // 4
        loss = velocity_loss(model, batch, draw_sigma(rng, len(batch.targets), tokens, 0.3)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, seen = step + 1, 0.95 * seen + 0.05 * loss.item()
        if step % 20 == 0:
            LOG.info("step %d, %.0f %%, loss %.4f", step, 100 * done, seen)
    return factors


def key_of(name: str) -> str:
    """What musubi calls the linear of this name."""
    return "lora_unet_" + name.replace(".", "_")


def take_over(factors: Factored, earlier: Mapping[str, Tensor]) -> None:
    """Begin with what an earlier training has ``written``."""
    for name, each in factors.items():
        each.down.data.copy_(earlier[f"{key_of(name)}.lora_down.weight"])
        each.up.data.copy_(earlier[f"{key_of(name)}.lora_up.weight"])


def written(factors: Factored) -> dict[str, Tensor]:
    """As musubi names them, in bfloat16."""
    found: dict[str, Tensor] = {}
    for name, each in factors.items():
        key = key_of(name)
        found[f"{key}.lora_down.weight"] = each.down.detach().bfloat16()
        found[f"{key}.lora_up.weight"] = each.up.detach().bfloat16()
        found[f"{key}.alpha"] = torch.tensor(float(each.down.shape[0]))
    return found


def parser(of: str | None, rank: int, rate: float, ways: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The flags of every training. ``of`` is the docstring whose first line says what is trained; ``ways``, of what."""
    made = argparse.ArgumentParser(description=of.partition("\n")[0] if of else None)
    if ways:
        made.add_argument("way", choices=ways)
    made.add_argument("file", type=Path)
    made.add_argument("--minutes", type=float, default=10)
    made.add_argument("--rank", type=int, default=rank)
    made.add_argument("--rate", type=float, default=rate, help="of learning, at its peak")
    made.add_argument("--begin-with", type=Path, metavar="FILE", help="an earlier one of the same rank, to go on from")
    made.add_argument("--seed", type=int, default=0)
    return made


def make_lora(
    options: argparse.Namespace,
    draw: Callable[[data.Models, np.random.Generator], Scenes],
    title: str,
    more: Mapping[str, str] | None = None,
) -> None:
    """Train by what ``draw`` makes, and write the file. ``more`` stands in its metadata."""
    use_small_attention()
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    checkpoint = find_checkpoint("pocket", Path("hf_download"))
    folder = checkpoint.folders["transformer"].parent
    models = load_models(argparse.Namespace(from_folder=folder), torch.empty(0), CPU)
    model = load_as_it_is(checkpoint, Compute(CPU, torch.float32, torch.float32, torch.float32, "training"))
    factors = train(model, draw(models, rng), options, rng)
    options.file.parent.mkdir(parents=True, exist_ok=True)
    told = {"ss_network_dim": str(options.rank), "ss_base_model_version": "framepack", "modelspec.title": title}
    save_file(written(factors), options.file, metadata={**told, **(more or {})})
