"""What bench.memory measures: a transformer of random weights, and the inputs of one step of a real section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_helper.models.quantise import quantisable
from diffusers_helper.models.transformer import FramePackTransformer

BOTH = {"has_image_proj": True, "has_clean_x_embedder": True}
TINY = {
    "num_layers": 2,
    "num_single_layers": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_refiner_layers": 1,
    "rope_axes_dim": (8, 12, 12),
    "text_embed_dim": 64,
    "pooled_projection_dim": 48,
    "image_proj_dim": 40,
}
TARGET_FRAMES = 9
FRAMES_PER_SECTION = 4 * TARGET_FRAMES
"""Of the video."""


@dataclass(frozen=True)
class Size:
    """Of the model and of a section: latent rows and columns, tokens of text and picture."""

    config: dict[str, Any]
    rows: int
    columns: int
    text_tokens: int
    image_tokens: int

    @property
    def told_tokens(self) -> int:
        """The text stream: picture and text."""
        return self.image_tokens + self.text_tokens

    @property
    def shown_tokens(self) -> int:
        """The image stream: target, two clean frames, two at half the size, sixteen at a quarter."""
        half = -(-self.rows // 4) * -(-self.columns // 4)
        quarter = 4 * -(-self.rows // 8) * -(-self.columns // 8)
        return (TARGET_FRAMES + 2) * (self.rows // 2) * (self.columns // 2) + half + quarter


FULL = Size({}, 80, 76, 60, 729)
DRY = Size(TINY, 8, 8, 5, 9)


def described(size: Size) -> FramePackTransformer:
    """Shapes without numbers."""
    with torch.device("meta"):
        return FramePackTransformer(**BOTH, **size.config).eval().requires_grad_(False)


def random_transformer(
    size: Size, device: torch.device, dtype: torch.dtype, home: torch.device | None = None
) -> FramePackTransformer:
    """Weights from N(0, 0.02), drawn on ``device``, kept at ``home``; at no time more than one is on its way."""
    torch.manual_seed(0)
    transformer = described(size)
    for module in transformer.modules():
        for name, shape in [(name, weight.shape) for name, weight in module.named_parameters(recurse=False)]:
            weight = torch.empty(shape, dtype=dtype, device=device).normal_(std=0.02).to(home or device)
            module.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    return transformer


def section_inputs(transformer: FramePackTransformer, size: Size, device: torch.device) -> dict[str, Tensor]:
    """Random inputs of one call for an F1 section: 9 target frames, 1 + 1 clean, 2 2x and 16 4x context frames."""
    torch.manual_seed(1)
    config, dtype = transformer.config, transformer.dtype

    def random(*shape: int) -> Tensor:
        return torch.randn(shape).to(device, dtype)

    def latents(frames: int) -> Tensor:
        return random(1, config.in_channels, frames, size.rows, size.columns)

    return {
        "hidden_states": latents(TARGET_FRAMES),
        "timestep": torch.tensor([500.0]).to(device, dtype),
        "guidance": torch.tensor([10_000.0]).to(device, dtype),
        "encoder_hidden_states": random(1, size.text_tokens, config.text_embed_dim),
        "encoder_attention_mask": torch.ones(1, size.text_tokens, dtype=torch.bool, device=device),
        "pooled_projections": random(1, config.pooled_projection_dim),
        "image_embeds": random(1, size.image_tokens, config.image_proj_dim),
        "indices_latents": torch.arange(20, 29, device=device),
        "latents_clean": latents(2),
        "indices_latents_clean": torch.tensor([0, 19], device=device),
        "latents_history_2x": latents(2),
        "indices_latents_history_2x": torch.tensor([17, 18], device=device),
        "latents_history_4x": latents(16),
        "indices_latents_history_4x": torch.arange(1, 17, device=device),
    }


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def put_modulation(transformer: FramePackTransformer, modules: Mapping[str, nn.Module]) -> None:
    """In the places of the modulation linears, by their names."""
    for name, module in modules.items():
        transformer.get_submodule(name.rpartition(".")[0]).linear = module


def block_sizes(transformer: FramePackTransformer) -> list[int]:
    """Bytes of each block."""
    return [sum(tensor.nbytes for tensor in tensors_of(block)) for block in transformer.blocks]


def product_shapes(size: Size) -> dict[tuple[int, int, int], int]:
    """(tokens, inputs, outputs) of the blocks' matrix products -> how many of them a step has."""
    counts: dict[tuple[int, int, int], int] = {}
    for name, linear in quantisable(described(size)).items():
        shape = (_tokens(name, size), linear.in_features, linear.out_features)
        counts[shape] = counts.get(shape, 0) + 1
    return counts


def _tokens(name: str, size: Size) -> int:
    """How many a linear sees: single blocks have both streams in one, double blocks a linear for each."""
    if name.startswith("single_"):
        return size.shown_tokens + size.told_tokens
    return size.told_tokens if "add_" in name or "context" in name else size.shown_tokens
