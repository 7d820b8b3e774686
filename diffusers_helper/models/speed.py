"""What the settings ask of the transformer's speed: its attention kernel, and compiled blocks."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..settings import Settings
from .attention import SDPA, Attention, allow_fused_kernels, choose_attention, use_attention
from .compile import compile_blocks, why_not
from .transformer import FramePackTransformer


def quicken(transformer: FramePackTransformer, device: torch.device, dtype: torch.dtype, chosen: Settings) -> Attention:
    """Do what the settings ask for; returns the attention in use, and in its notices all that is not done.

    Args:
        device, dtype: in which the transformer computes.
    """
    attention = attention_of(chosen, device, dtype, transformer.config.attention_head_dim)
    use_attention(transformer, attention)
    refusal = _compile_refusal(chosen, device) if chosen.compile else ""
    if compiles(chosen, device):
        compile_blocks(transformer, whole=attention.kernel == SDPA)
    return replace(attention, notices=(*attention.notices, refusal)) if refusal else attention


def attention_of(chosen: Settings, device: torch.device, dtype: torch.dtype, head_width: int = 128) -> Attention:
    """The attention that the settings come to on ``device``. PyTorch's kernels are switched as they say."""
    allow_fused_kernels(chosen.flash_sdp, chosen.mem_efficient_sdp)
    return choose_attention(chosen.attention, chosen.xformers_mode, device, dtype, head_width)


def compiles(chosen: Settings, device: torch.device) -> bool:
    """Whether the blocks are compiled."""
    return chosen.compile and not _compile_refusal(chosen, device)


def _compile_refusal(chosen: Settings, device: torch.device) -> str:
    if chosen.fast_start:
        return "--fast-start goes before --compile: the blocks are not compiled."
    lacking = why_not(device)
    return f"The blocks are not compiled: {lacking}." if lacking else ""
