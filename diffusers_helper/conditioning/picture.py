"""A picture as the transformer sees it besides its latent: the tokens of a SigLIP vision model; and the mask of one."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import SiglipImageProcessorPil, SiglipVisionModel


def encode_picture_tokens(pixels: np.ndarray, processor: SiglipImageProcessorPil, encoder: SiglipVisionModel) -> Tensor:
    """[1, image tokens, D] on the CPU, from uint8 pixels [height, width, 3]."""
    inputs = processor(images=pixels, return_tensors="pt")["pixel_values"]
    return encoder(pixel_values=inputs.to(encoder.device, encoder.dtype)).last_hidden_state.cpu()


def masked(latent: Tensor, mask: np.ndarray | None) -> Tensor:
    """[1, C, 1, H, W], zero where the picture does not count: ``mask``, uint8 [8 H, 8 W], None where all of it does."""
    return latent if mask is None else latent * latent_mask(mask, *latent.shape[3:])


def latent_mask(mask: np.ndarray, height: int, width: int) -> Tensor:
    """[1, 1, 1, height, width] float32, from 0 (ignored) to 1 (used), of uint8 [8 height, 8 width].

    Lanczos over bytes, as musubi does it: so soft edges stay soft.
    """
    scaled = Image.fromarray(mask).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(scaled, np.float32) / 255)[None, None, None]
