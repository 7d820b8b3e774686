"""What the settings ask of the transformer's speed: its attention kernel, and compiled blocks."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..settings import Kernels
from ..words import Message
from .attention import SDPA, Attention, allow_fused_kernels, choose_attention, use_attention
from .compile import compile_blocks, why_not
from .transformer import FramePackTransformer


def apply_kernels(
    transformer: FramePackTransformer, device: torch.device, dtype: torch.dtype, kernels: Kernels
) -> Attention:
    """Do what the settings ask for; returns the attention in use, and in its notices all that is not done.

    Args:
        device, dtype: in which the transformer computes.
    """
    attention = attention_of(kernels, device, dtype, transformer.config.attention_head_dim)
    use_attention(transformer, attention)
    if compiles(kernels, device):
        compile_blocks(transformer, whole=attention.kernel == SDPA)
    elif kernels.compile:
        refusal = Message("compile.refused", reason=why_not(device))
        return replace(attention, notices=(*attention.notices, refusal))
    return attention


def attention_of(kernels: Kernels, device: torch.device, dtype: torch.dtype, head_width: int = 128) -> Attention:
    """The attention that the settings come to on ``device``. PyTorch's kernels are switched as they say."""
    allow_fused_kernels(kernels.flash_sdp, kernels.mem_efficient_sdp)
    return choose_attention(kernels.attention, device, dtype, head_width)


def compiles(kernels: Kernels, device: torch.device) -> bool:
    """Whether the blocks are compiled."""
    return kernels.compile and not why_not(device)
