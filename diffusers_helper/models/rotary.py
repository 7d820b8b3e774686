"""Rotary embeddings of the image tokens, with frames that may be larger than the ones that were trained.

The formula is diffusers' ``HunyuanVideoFramepackRotaryPosEmbed``: a token stands at its frame's time index and at its
row and column, each axis turning a part of the head's width. RoPE scaling divides rows and columns by a factor, so
that a frame of ``factor`` times the trained sides spans the trained positions; time stays as it is. Nothing is kept:
the factor is an argument of every call.
"""

from __future__ import annotations

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_hunyuan_video_framepack import HunyuanVideoFramepackRotaryPosEmbed
from torch import Tensor

Rotary = tuple[Tensor, Tensor]


def rotary_table(
    rope: HunyuanVideoFramepackRotaryPosEmbed,
    frame_indices: Tensor,
    grid: tuple[int, int],
    device: torch.device,
    factor: float = 1.0,
) -> Rotary:
    """cos and sin of the tokens of some frames, [frames * rows * columns, head width] each.

    Args:
        rope: the widths of its axes and its theta are used.
        frame_indices: [frames], the time index of each.
        grid: rows and columns of tokens.
        factor: rows and columns are divided by it; 1 gives the trained positions to the last bit.
    """
    rows, columns = (torch.arange(0, size, device=device, dtype=torch.float32) / factor for size in grid)
    times = frame_indices.to(device=device, dtype=torch.float32)
    positions = torch.meshgrid(times, rows, columns, indexing="ij")
    tables = [
        get_1d_rotary_pos_embed(width, axis.reshape(-1), rope.theta, use_real=True)
        for width, axis in zip(rope.rope_dim, positions, strict=True)
    ]
    cos, sin = zip(*tables, strict=True)
    return torch.cat(cos, dim=1), torch.cat(sin, dim=1)
