"""The pocket's transformer: configuration and starting weights.

The class is diffusers' own. What is special is only where training starts: modulation begins near zero with open gates,
and half of the heads begin by looking at the same place of the picture in every frame (through the biases of query and
key, which rotary embedding turns into a function of distance), so that copying need not be discovered.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from torch import nn

from diffusers_helper.models.transformer import FramePackTransformer
from tools.pocket import encoders

HEADS, HEAD_WIDTH = 6, 32
ROPE_AXES = (8, 12, 12)
GATE = 0.3
PLACE_BIAS = 6.0
DOUBLE_BLOCKS, SINGLE_BLOCKS = 3, 5
PLACE_PAIR = 1  # rotary frequency, 0.4 radians a token: half a turn over a frame of 8 tokens
MIDDLE_TOKEN = 3.5


def make_transformer(width_heads: int = HEADS) -> FramePackTransformer:
    """About 7 million parameters."""
    model = FramePackTransformer(
        num_attention_heads=width_heads,
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


@torch.no_grad()
def tell_places(
    model: HunyuanVideoFramepackTransformer3DModel, direction: torch.Tensor, middle: float, gain: float, size: float
) -> None:
    """Make the first double block write each token's row and column into the image stream, and nothing else.

    Text and picture tokens are not rotated, so a constant query at (y, x) meets their keys with cos(frequency * place):
    top and left places look at picture tokens, bottom and right ones at text tokens, whose values have opposite signs.
    Zooms need this: how far a place moves depends on where it is.

    Args:
        direction: `[D]`, tells picture tokens (above `middle`) from text tokens after layer norm.
        gain: scales that difference to values of about 1.
        size: length of the written features per channel.
    """
    block, heads = model.transformer_blocks[0], model.config.num_attention_heads
    width = model.config.attention_head_dim
    for linear in (block.attn.to_out[0], block.attn.to_add_out, block.ff.net[2], block.ff_context.net[2]):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    block.norm1.linear.bias.data[2 * heads * width : 3 * heads * width] = 1.0
    for head, axis in enumerate((1, 2)):
        rows = slice(head * width, (head + 1) * width)
        _place_head(block.attn, rows, sum(model.config.rope_axes_dim[:axis]), direction, middle, gain)
        written = torch.randn(heads * width, generator=torch.Generator().manual_seed(head)) * size
        block.attn.to_out[0].weight[:, head * width] = written


def _place_head(
    attention: Any, rows: slice, axis_start: int, direction: torch.Tensor, middle: float, gain: float
) -> None:
    """Queries at the axis' rotary pair; keys and values of the text stream by sign; image tokens out of the way."""
    pair, start = axis_start + 2 * PLACE_PAIR, rows.start
    phase = torch.pi / 2 - MIDDLE_TOKEN * 256 ** (-2 * PLACE_PAIR / 12)
    names = ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj")
    for projection in (getattr(attention, name) for name in names):
        projection.weight[rows], projection.bias[rows] = 0.0, 0.0
    attention.to_q.bias[start + pair] = PLACE_BIAS * torch.cos(torch.tensor(phase))
    attention.to_q.bias[start + pair + 1] = PLACE_BIAS * torch.sin(torch.tensor(phase))
    attention.to_k.bias[start + 6] = PLACE_BIAS  # the slowest pair of the time axis, where the query is 0
    for projection, place in ((attention.add_k_proj, pair), (attention.add_v_proj, 0)):
        projection.weight[start + place] = gain * direction
        projection.bias[start + place] = -gain * middle
