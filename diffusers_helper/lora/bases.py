"""The linears of the transformers that LoRAs are made for."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..models.fill import empty_transformer
from ..models.transformer import FramePackTransformer
from .layers import LinearShapes

FULL_SIZE = "framepack"


def linear_shapes(transformer: nn.Module) -> LinearShapes:
    """Of a transformer whose linears are plain, on any device."""
    linears = ((name, module) for name, module in transformer.named_modules() if isinstance(module, nn.Linear))
    return {name: (module.out_features, module.in_features) for name, module in linears}


def shapes_in(folder: Path) -> LinearShapes:
    """Of the transformer in a folder, by its config. Raises UnusableCheckpoint."""
    return linear_shapes(empty_transformer(folder, torch.float32))


def full_size_shapes() -> LinearShapes:
    """Of FramePack's 13B transformer; HunyuanVideo's are the same, but that it has no picture projection."""
    with torch.device("meta"):
        return linear_shapes(FramePackTransformer(has_image_proj=True, has_clean_x_embedder=True))
