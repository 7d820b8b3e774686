"""A transformer with a block of each kind, and inputs of any size for it."""

from __future__ import annotations

from typing import Any

import torch

from diffusers_helper.models.transformer import FramePackTransformer


def tiny_transformer() -> FramePackTransformer:
    """Random weights, always the same."""
    torch.manual_seed(0)
    transformer = FramePackTransformer(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(4, 6, 6),
        has_image_proj=True,
        image_proj_dim=12,
        has_clean_x_embedder=True,
    )
    return transformer.eval().requires_grad_(False)


def tiny_inputs(height: int = 8, width: int = 8, text: int = 5, frames: int = 3, batch: int = 1) -> dict[str, Any]:
    """Of a whole context: latents [batch, 16, frames, height, width] and ``text`` tokens."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    return {
        "hidden_states": random(16, frames, height, width),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": random(text, 16),
        "encoder_attention_mask": torch.ones(batch, text, dtype=torch.bool),
        "pooled_projections": random(8),
        "image_embeds": random(4, 12),
        "guidance": torch.full((batch,), 10_000.0),
        "indices_latents": torch.arange(frames),
        "latents_clean": random(16, 2, height, width),
        "indices_latents_clean": torch.arange(2),
        "latents_history_2x": random(16, 2, height, width),
        "indices_latents_history_2x": torch.arange(2),
        "latents_history_4x": random(16, 16, height, width),
        "indices_latents_history_4x": torch.arange(16),
    }
