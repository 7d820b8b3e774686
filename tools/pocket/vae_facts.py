"""What the rest of the pocket must know about its VAE: scaling factor and the linear preview of latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch.nn import functional

from tools.pocket import codec
from tools.pocket.train_vae import draw_frames


@dataclass(frozen=True)
class VaeFacts:
    """Scaling factor, and rgb = factors^T z + bias with rgb in 0..1 for scaled latents z."""

    scaling_factor: float
    rgb_factors: list[list[float]]
    rgb_bias: list[float]


@torch.no_grad()
def measure_vae(vae: AutoencoderKLHunyuanVideo, canvases: torch.Tensor) -> VaeFacts:
    """Measure on fresh views: 1 / std of the latents, and a least-squares map to the mean colour of 8x8 pixels."""
    frames = draw_frames(np.random.default_rng(9), canvases, 256, 64)
    latents = codec.encode_frames(vae, frames)
    scale = float(1 / latents.std())
    values = (latents * scale).permute(0, 2, 3, 1).reshape(-1, codec.LATENT_CHANNELS)
    colours = functional.avg_pool2d(frames, codec.BLOCK).permute(0, 2, 3, 1).reshape(-1, 3) / 2 + 0.5
    columns = torch.cat([values, torch.ones(len(values), 1)], dim=1)
    solution = torch.linalg.lstsq(columns, colours).solution
    rounded = [[round(float(v), 5) for v in row] for row in solution]
    return VaeFacts(round(scale, 5), rounded[:-1], rounded[-1])
