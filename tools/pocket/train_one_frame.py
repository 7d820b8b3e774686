"""A LoRA for the pocket that makes one picture of two: kisekaeichi or 1f-mc.

    python -m tools.pocket.train_one_frame kisekaeichi tests/lora/data/kisekaeichi.safetensors [--minutes 10]
        [--rank 8] [--seed 0]

It learns from drawn pairs (``one_frame_scenes``), as musubi trains: the given pictures are clean latents at their
places in time, and the tokens of the first alone are what the transformer sees besides. In kisekaeichi a share of the
second pictures is masked black, and then nothing changes.

Shape legend: B samples, h x w latent pixels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import partial
from typing import get_args

import numpy as np
import torch

from diffusers_helper.request import Recipe
from diffusers_helper.sections.kinds import OneFrame
from diffusers_helper.sections.modes import MODES, Mode
from tools.pocket import data
from tools.pocket.captions import Caption
from tools.pocket.lora_training import make_lora, parser
from tools.pocket.one_frame_scenes import Way, draw_pair, paint

SIDE, PAIRS, AT_ONCE, BATCH = 128, 1000, 50, 4
BLACK_SHARE = 0.1
"""Of kisekaeichi's pairs, how many have a black mask on the second picture."""
PROMPTS: Mapping[Way, str] = {"kisekaeichi": "the shape changes its clothes", "1f-mc": "the shape comes in"}
TITLES: Mapping[Way, str] = {"kisekaeichi": "Kisekaeichi of shapes", "1f-mc": "1f-mc of shapes"}


class Scenes:
    """Encoded pairs with what is made of them."""

    def __init__(self, way: Way, models: data.Models, rng: np.random.Generator) -> None:
        self._way, self._rng, self._cut = way, rng, cut(MODES[way])
        encoded = [self._encoded(models) for _ in range(PAIRS // AT_ONCE)]
        self._latents = torch.cat([latents for latents, _ in encoded])
        parts = [vars(features) for _, features in encoded]
        self._features = data.Features(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def _encoded(self, models: data.Models) -> tuple[torch.Tensor, data.Features]:
        """Latents ``[B, 16, 3, h, w]`` of the two pictures and the third of some pairs, with what goes with them."""
        drawn = torch.from_numpy(np.stack([self._drawn() for _ in range(AT_ONCE)]))
        clips = drawn.permute(0, 4, 1, 2, 3) / 127.5 - 1
        features = data.describe(models, [Caption(PROMPTS[self._way], "hold")] * AT_ONCE, clips[:, :, 0])
        return data.encode_clips(models, clips), features

    def _drawn(self) -> np.ndarray:
        """The two pictures and the third of a pair, uint8 ``[3, side, side, 3]``."""
        pair = draw_pair(self._rng)
        return np.stack([paint(scene, SIDE) for scene in (pair.first, pair.second, pair.target(self._way))])

    def batch(self) -> data.Batch:
        """Any of the pairs."""
        rows = torch.from_numpy(self._rng.integers(0, PAIRS, BATCH))
        clips = self._latents[rows]
        if self._way == "kisekaeichi":
            black = torch.from_numpy(self._rng.random(BATCH) < BLACK_SHARE)
            clips[black, :, 1] = 0
            clips[black, :, 2] = clips[black, :, 0]
        return data.make_batch(clips, self._features.take(rows), self._cut)


def cut(mode: Mode) -> data.Cut:
    """Of clips of three, the first two are given and the third is made; all stand where the application puts them."""
    section = mode.kind.plan(Recipe.parse({"kind": OneFrame.name, **mode.flat()}), ()).sections[0]
    return data.Cut(section.context, targets=(2,), known=(), pictures=(0, 1))


def told(mode: Mode) -> dict[str, str]:
    """Where the pictures stood in training, as musubi writes it of its data sets."""
    said = {
        "fp_latent_window_size": mode.latent_window,
        "fp_1f_clean_indices": mode.kind.control_indices,
        "fp_1f_target_index": mode.kind.target_index,
        "fp_1f_no_post": not mode.kind.post,
    }
    return {"ss_datasets": json.dumps([said])}


def main() -> None:
    """Train, and write the file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parser(__doc__, rank=8, rate=5e-3, ways=get_args(Way)).parse_args()
    make_lora(options, partial(Scenes, options.way), TITLES[options.way], told(MODES[options.way]))


if __name__ == "__main__":
    main()
