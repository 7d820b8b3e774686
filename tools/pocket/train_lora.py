"""A small LoRA for the pocket, to show what a LoRA does: with it everything in the picture turns blue.

    python -m tools.pocket.train_lora tests/lora/data/turns_blue.safetensors [--minutes 10] [--rank 4] [--seed 0]

It learns from the scenes that the pocket has learnt from, tinted blue from instant to instant, in whatever order their
sections are made.

Shape legend: B clips, L instants of a clip.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from tools.pocket import data
from tools.pocket.canvases import draw_canvases
from tools.pocket.lora_training import make_lora, parser
from tools.pocket.shape_captions import draw_caption

SIZE, CANVASES, CLIPS, BATCH = (64, 64), 48, 96, 4
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


def main() -> None:
    """Train, and write the file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make_lora(parser(__doc__, rank=4, rate=2e-3).parse_args(), Scenes, "Turns blue")


if __name__ == "__main__":
    main()
