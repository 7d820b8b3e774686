"""A picture as the transformer sees it besides its latent: the tokens of a SigLIP vision model."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from transformers import SiglipImageProcessorPil, SiglipVisionModel


def encode_picture_tokens(pixels: np.ndarray, processor: SiglipImageProcessorPil, encoder: SiglipVisionModel) -> Tensor:
    """[1, image tokens, D] on the CPU, from uint8 pixels [height, width, 3]."""
    inputs = processor(images=pixels, return_tensors="pt")["pixel_values"]
    return encoder(pixel_values=inputs.to(encoder.device, encoder.dtype)).last_hidden_state.cpu()
