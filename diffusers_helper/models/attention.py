"""Which attention kernel the transformer's blocks use, and why.

PyTorch's own function is the default. Every other kernel is chosen by the user and taken only after a self-test against
it on this machine. The choice goes through diffusers' dispatcher, which reaches the blocks of the transformer and
nothing else: the VAE, the encoders and the text refiner need masks or widths that the fast kernels do not know.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend, dispatch_attention_fn
from torch import Tensor
from torch.backends import cuda

from ..words import Message, plain
from .transformer import FramePackTransformer

log = logging.getLogger(__name__)

HEAD_WIDTH, VAE_HEAD_WIDTH = 128, 512
TOKENS, HEADS = 1021, 4
"""Of the self-test; not a multiple of any kernel's tile."""


@dataclass(frozen=True)
class Kernel:
    """A kernel by the dispatcher's name.

    Attributes:
        most_error: of its self-test, as a share of the result's norm; rounding to bfloat16 alone is about 0.003.
        package, module: that it needs besides PyTorch, as pip and as Python know it.
    """

    backend: AttentionBackendName
    title: str
    most_error: float
    package: str = ""
    module: str = ""


SDPA = Kernel(AttentionBackendName.NATIVE, "PyTorch's scaled_dot_product_attention", 0.0)
KERNELS: dict[str, tuple[Kernel, ...]] = {
    "sdpa": (SDPA,),
    "flash": (
        Kernel(AttentionBackendName._FLASH_3, "FlashAttention 3", 0.02, "flash-attn-3", "flash_attn_interface"),
        Kernel(AttentionBackendName.FLASH, "FlashAttention 2", 0.02, "flash-attn", "flash_attn"),
    ),
    "sage": (
        Kernel(AttentionBackendName.SAGE, "SageAttention (8-bit products)", 0.1, "sageattention", "sageattention"),
    ),
    "xformers": (Kernel(AttentionBackendName.XFORMERS, "xFormers", 0.02, "xformers", "xformers"),),
    "cutlass": (
        Kernel(AttentionBackendName._NATIVE_EFFICIENT, "xFormers' CUTLASS kernel, as PyTorch builds it", 0.02),
    ),
}


@dataclass(frozen=True)
class Attention:
    """The kernel in use.

    Attributes:
        why: why it is this one.
        notices: where it is not what was asked for.
    """

    kernel: Kernel
    why: Message
    notices: tuple[Message, ...] = ()


def choose_attention(name: str, device: torch.device, dtype: torch.dtype, head_width: int = HEAD_WIDTH) -> Attention:
    """The kernel that was asked for if it proves itself on ``device``, else PyTorch's own.

    Args:
        name: of KERNELS.
        dtype, head_width: of the transformer's queries.
    """
    if name == "sdpa":
        return Attention(SDPA, Message("attention.exact"))
    failures = []
    for kernel in KERNELS[name]:
        failure, error = self_test(kernel, device, dtype, head_width)
        if not failure:
            return Attention(kernel, Message("attention.asked_for", error=error))
        failures.append(Message("attention.failure", kernel=kernel.title, reason=failure))
    refusal = Message("attention.instead", failures=tuple(failures), kernel=SDPA.title)
    return Attention(SDPA, refusal, (refusal,))


def self_test(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, head_width: int
) -> tuple[Message | None, float]:
    """Run ``kernel`` beside PyTorch's on random tokens: why it cannot be used (None when it can), and its error."""
    if kernel.module and not find_spec(kernel.module):
        return Message("attention.not_installed", package=kernel.package), float("inf")
    tokens = _random_tokens(device, dtype, head_width)
    expected = _run(SDPA, tokens).float()
    try:
        found = _run(kernel, tokens).float()
    except Exception as error:
        log.info("the self-test of %s failed", kernel.title, exc_info=True)
        return plain(first_line(error)), float("inf")
    if found.shape != expected.shape or not found.isfinite().all():
        return Message("attention.broken"), float("inf")
    difference = float((found - expected).norm() / expected.norm())
    log.info("%s differs from PyTorch's attention by %.2g in its self-test", kernel.title, difference)
    if difference > kernel.most_error:
        return Message("attention.differs", difference=difference, most=kernel.most_error), difference
    return None, difference


def use_attention(transformer: FramePackTransformer, attention: Attention) -> None:
    """Let the blocks of ``transformer`` use the chosen kernel, and nothing else."""
    log.info("attention: %s, because %s", attention.kernel.title, attention.why)
    for module in transformer.modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_attention_backend"):
            processor._attention_backend = attention.kernel.backend


def allow_fused_kernels(flash: bool, memory_efficient: bool) -> None:
    """Keep PyTorch's own function from kernels that somebody does not want. Holds for the process."""
    if not flash:
        cuda.enable_flash_sdp(False)
    if not memory_efficient:
        cuda.enable_mem_efficient_sdp(False)


def attention_is_fused(
    device: torch.device, dtype: torch.dtype, head_width: int = HEAD_WIDTH, masked: bool = False
) -> bool:
    """Whether PyTorch's own attention works in pieces there, and never holds the scores of all pairs of tokens.

    The fused kernels take bfloat16 from compute capability 8.0 on. Where none serves, scores and their softmax are held
    in float32: 8 bytes for each pair of tokens and each head. Kernels that ``allow_fused_kernels`` has switched off do
    not count.
    """
    if device.type != "cuda":
        return True
    tokens = _zeros(device, dtype, 1, HEADS, 64, head_width)
    mask = _zeros(device, dtype, 1, 1, 64, 64) if masked else None
    asked = cuda.SDPAParams(tokens, tokens, tokens, mask, 0.0, False, False)
    kernels = (cuda.can_use_flash_attention, cuda.can_use_efficient_attention, cuda.can_use_cudnn_attention)
    return any(can_use(asked) for can_use in kernels)


def _zeros(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.zeros(shape, device=device, dtype=dtype)


def _random_tokens(device: torch.device, dtype: torch.dtype, head_width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [1, TOKENS, HEADS, head width]. The keys share a direction, as a trained model's do."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, TOKENS, HEADS, head_width, generator=generator) for _ in range(3))
    key = key + 2 * torch.randn(head_width, generator=generator)
    return query.to(device, dtype), key.to(device, dtype), value.to(device, dtype)


@torch.inference_mode()
def _run(kernel: Kernel, tokens: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    with attention_backend(kernel.backend):
        return dispatch_attention_fn(*tokens)


def first_line(error: Exception) -> str:
    """Of what an error says, for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
