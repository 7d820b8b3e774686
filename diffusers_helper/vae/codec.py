"""Encode one picture, decode a clip, and turn the result into bytes.

Latents are scaled (times the VAE's scaling factor, so that their standard deviation is about 1): the space the sampler
works in. Shapes: B batch, C latent channels, T latent frames, F = 4 T - 3 video frames, H and W latent rows and
columns; pixels are 8 H by 8 W.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

PIXEL_DTYPE = torch.float16


@dataclass(frozen=True)
class LatentPosterior:
    """The distribution of latents, scaled: [B, C, T, H, W] mean and standard deviation, float32."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """[B, C, T, H, W] float32."""
        return self.mean + self.std * torch.randn(self.mean.shape, generator=generator)


def encode_picture(vae: AutoencoderKLHunyuanVideo, pixels: np.ndarray) -> LatentPosterior:
    """The latent distribution of ``pixels``, uint8 [8 H, 8 W, 3]."""
    return encode_frames(vae, pixels[None])


def encode_frames(vae: AutoencoderKLHunyuanVideo, frames: np.ndarray) -> LatentPosterior:
    """The latent distribution of a video, uint8 [F, 8 H, 8 W, 3]: [1, C, T, H, W]."""
    x = torch.from_numpy(frames).to(torch.float32) / 127.5 - 1
    posterior = vae.encode(x.permute(3, 0, 1, 2)[None].to(vae.device, vae.dtype)).latent_dist
    scale = vae.config.scaling_factor
    return LatentPosterior(posterior.mean.float().cpu() * scale, posterior.std.float().cpu() * scale)


def decode_clip(vae: AutoencoderKLHunyuanVideo, latents: Tensor, tile: int = 0) -> Tensor:
    """[B, C, T, H, W] latents to [B, 3, F, 8 H, 8 W] pixels, about -1 to 1, float16 on the CPU.

    ``tile`` decodes squares of so many pixels that overlap: slower, slightly other pixels, little memory; 0 does not.
    """
    unscaled = (latents / vae.config.scaling_factor).to(vae.device, vae.dtype)
    with in_tiles(vae, tile) if tile else nullcontext():
        return vae.decode(unscaled, return_dict=False)[0].to("cpu", PIXEL_DTYPE)


@contextmanager
def in_tiles(vae: AutoencoderKLHunyuanVideo, tile: int) -> Iterator[None]:
    """``vae`` decodes squares of ``tile`` pixels, each of which shares a quarter of its side with the next."""
    vae.tile_sample_min_height = vae.tile_sample_min_width = tile
    vae.tile_sample_stride_height = vae.tile_sample_stride_width = tile * 3 // 4
    vae.use_tiling = True
    try:
        yield
    finally:
        vae.use_tiling = False


def to_bytes(pixels: Tensor) -> Tensor:
    """-1..1 to 0..255, truncated: uint8 of the same shape. Half precision is widened first."""
    return (pixels.float().clamp(-1, 1) * 127.5 + 127.5).to(torch.uint8)


def to_frames(pixels: Tensor) -> np.ndarray:
    """A clip [1, 3, F, height, width] as bytes [F, height, width, 3]."""
    return to_bytes(pixels)[0].permute(1, 2, 3, 0).contiguous().numpy()
