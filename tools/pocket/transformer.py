"""The pocket's transformer: configuration and starting weights.

The class is diffusers' own. What is special is only where training starts: modulation begins near zero with open gates,
and half of the heads begin by looking at the same place of the picture in every frame (through the biases of query and
key, which rotary embedding turns into a function of distance), so that copying need not be discovered.

Shape legend: B samples, T target frames, h x w latent pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from torch import nn

from diffusers_helper.models.transformer import FramePackTransformer
from tools.pocket import encoders
from tools.pocket.data import Batch

STATE = "transformer.pt"  # what training leaves in its folder
HEADS, HEAD_WIDTH = 6, 32
ROPE_AXES = (8, 12, 12)
GATE = 0.3
PLACE_BIAS = 6.0
DOUBLE_BLOCKS, SINGLE_BLOCKS = 3, 5
GUIDANCE = 10.0  # the only distilled guidance that is trained


def make_transformer() -> FramePackTransformer:
    """About 8 million parameters."""
    model = FramePackTransformer(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        num_layers=DOUBLE_BLOCKS,
        num_single_layers=SINGLE_BLOCKS,
        num_refiner_layers=1,
        mlp_ratio=3.0,
        guidance_embeds=True,
        text_embed_dim=encoders.WIDTH,
        pooled_projection_dim=encoders.WIDTH,
        rope_axes_dim=ROPE_AXES,
        has_image_proj=True,
        image_proj_dim=encoders.PICTURE_WIDTH,
        has_clean_x_embedder=True,
    )
    start_weights(model)
    return model


def start_weights(model: HunyuanVideoFramepackTransformer3DModel) -> None:
    """Overwrite diffusers' default weights where they slow learning."""
    width = model.config.num_attention_heads * model.config.attention_head_dim
    for block in model.transformer_blocks:
        _start_modulation(block.norm1.linear, (2, 5), width)
        _start_modulation(block.norm1_context.linear, (2, 5), width)
    for block in model.single_transformer_blocks:
        _start_modulation(block.norm.linear, (2,), width)
    _start_modulation(model.norm_out.linear, (), width)
    for block in (*model.transformer_blocks, *model.single_transformer_blocks):
        _look_at_place(block.attn, model.config.num_attention_heads, model.config.rope_axes_dim)


def _start_modulation(linear: nn.Linear, gates: tuple[int, ...], width: int) -> None:
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    for part in gates:
        linear.bias.data[part * width : (part + 1) * width] = GATE


@torch.no_grad()
def _look_at_place(attention: Any, heads: int, axes: tuple[int, ...]) -> None:
    """Every second head: a constant query and key in the fastest spatial frequencies, largest where distance is 0."""
    time, rows, _ = axes
    fast = [time + axis * rows + 2 * pair for axis in range(2) for pair in range(3)]
    for head in range(0, heads, 2):
        for projection in (attention.to_q, attention.to_k):
            bias = projection.bias.view(heads, -1)[head]
            bias[fast] = PLACE_BIAS * torch.tensor([1.0, 0.7, 0.5] * 2)
            projection.weight.view(heads, -1, projection.in_features)[head] *= 0.7


def predict_velocity(
    model: FramePackTransformer, noisy: torch.Tensor, sigma: torch.Tensor, batch: Batch
) -> torch.Tensor:
    """noise - x0 of `noisy` latents `[B, 16, T, h, w]` at noise levels `sigma` `[B]`, float32."""
    made = model(
        hidden_states=noisy,
        timestep=sigma * 1000,
        guidance=torch.full_like(sigma, GUIDANCE * 1000),
        encoder_hidden_states=batch.features.prompt,
        encoder_attention_mask=batch.features.mask,
        pooled_projections=batch.features.pooled,
        image_embeds=batch.features.picture,
        indices_latents=batch.indices,
        **batch.context,
    )
    return made.float()
