"""A small LoRA for the pocket, to show what a LoRA does: with it everything in the picture turns blue.

    python -m tools.pocket.train_lora tests/lora/data/turns_blue.safetensors [--minutes 10] [--rank 4] [--seed 0]

It learns from the scenes that the pocket has learnt from, tinted blue from instant to instant, in whatever order their
sections are made. Low rank, one adapter for every linear of the blocks but the modulation's, names and alpha as musubi
writes them.

Shape legend: B clips, L instants of a clip, R rank, O outputs and I inputs of a linear.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from diffusers_helper.models.load import Compute, load_as_it_is
from diffusers_helper.models.quantise import quantisable
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.models.transformer import FramePackTransformer
from tools.pocket import data
from tools.pocket.canvases import draw_canvases
from tools.pocket.shape_captions import draw_caption
from tools.pocket.train_transformer import draw_sigma, load_models, velocity_loss

LOG = logging.getLogger(__name__)
CPU = torch.device("cpu")
SIZE, CANVASES, CLIPS, BATCH = (64, 64), 48, 96, 4
RATE = 2e-3
BLUE = (-0.9, -0.4, 0.9)
"""Of a pixel in -1..1."""
MOST_BLUE, INSTANTS = 0.85, 9
"""How blue it gets, and in how many instants; it stays so."""


def blue(clips: Tensor) -> Tensor:
    """``[B, 3, L, H, W]`` in -1..1, bluer from instant to instant; light and dark stay apart."""
    share = (torch.arange(clips.shape[2]) / INSTANTS).clamp(max=1).mul(MOST_BLUE).view(1, 1, -1, 1, 1)
    light = clips.mean(1, keepdim=True)
    tinted = (torch.tensor(BLUE).view(1, 3, 1, 1, 1) + light * 0.5).clamp(-1, 1)
    return clips.lerp(tinted, share)


class Scenes:
    """Encoded clips of one section and of four."""

    def __init__(self, models: data.Models, rng: np.random.Generator) -> None:
        canvases = torch.from_numpy(draw_canvases(int(rng.integers(2**31)), CANVASES))
        self._rng = rng
        self._by_length = {length: self._encoded(models, canvases, length) for length in (data.SHORT, data.LONG)}

    def _encoded(self, models: data.Models, canvases: Tensor, length: int) -> tuple[Tensor, data.Features]:
        captions = [draw_caption(self._rng, 0.5, data.EMPTY_SHARE) for _ in range(CLIPS)]
        clips = blue(data.render_clips(self._rng, canvases, captions, length, SIZE))
        return data.encode_clips(models, clips), data.describe(models, captions, clips[:, :, 0])

    def batch(self) -> data.Batch:
        """A section as the application would make it."""
        latents, features = self._by_length[data.SHORT if self._rng.random() < 0.6 else data.LONG]
        rows = torch.from_numpy(self._rng.integers(0, CLIPS, BATCH))
        return data.make_batch(latents[rows], features.take(rows), data.draw_cut(self._rng, latents.shape[2]))


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


def train(model: FramePackTransformer, scenes: Scenes, minutes: float, rank: int, rng: np.random.Generator) -> Factored:
    """Factors for every linear of the blocks, by name."""
    factors = {name: Factors(linear, rank) for name, linear in quantisable(model).items()}
    parameters = [parameter for each in factors.values() for parameter in each.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    began, step, seen = time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / 20) * (1 - done)
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


def written(factors: Factored) -> dict[str, Tensor]:
    """As musubi names them, in bfloat16."""
    found: dict[str, Tensor] = {}
    for name, each in factors.items():
        key = "lora_unet_" + name.replace(".", "_")
        found[f"{key}.lora_down.weight"] = each.down.detach().bfloat16()
        found[f"{key}.lora_up.weight"] = each.up.detach().bfloat16()
        found[f"{key}.alpha"] = torch.tensor(float(each.down.shape[0]))
    return found


def main() -> None:
    """Train, and write the file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    checkpoint = find_checkpoint("pocket", Path("hf_download"))
    folder = checkpoint.folders["transformer"].parent
    models = load_models(argparse.Namespace(from_folder=folder), torch.empty(0), CPU)
    model = load_as_it_is(checkpoint, Compute(CPU, torch.float32, torch.float32, torch.float32, "training"))
    factors = train(model, Scenes(models, rng), options.minutes, options.rank, rng)
    options.file.parent.mkdir(parents=True, exist_ok=True)
    told = {"ss_network_dim": str(options.rank), "ss_base_model_version": "framepack", "modelspec.title": "Turns blue"}
    save_file(written(factors), options.file, metadata=told)


if __name__ == "__main__":
    main()
