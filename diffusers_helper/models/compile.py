"""Compiling the blocks that the transformer repeats, each kind once, for all sizes.

Everything else stays as it is: the step cache, the swap and the modulation table work outside of the blocks. The
compiled code is kept in the folder that TORCHINDUCTOR_CACHE_DIR names, so that the next start only reads it; PyTorch
reads the name when it is imported, and the command line sets it.
"""

from __future__ import annotations

import logging
import os
import shutil

import torch

from ..words import Message
from .transformer import FramePackTransformer

log = logging.getLogger(__name__)


def compile_blocks(transformer: FramePackTransformer, whole: bool = True) -> None:
    """From its first step on, ``transformer`` runs compiled blocks.

    Args:
        whole: refuse to leave compiled code within a block; kernels from other packages may need to.
    """
    log.info("the blocks will be compiled; compiled code is kept in %s", os.environ.get("TORCHINDUCTOR_CACHE_DIR"))
    for block in transformer.blocks:
        block.compile(fullgraph=whole, dynamic=True)


def is_compiled(transformer: FramePackTransformer) -> bool:
    """Whether its blocks are; what is hooked into them would not act then."""
    return any(block._compiled_call_impl is not None for block in transformer.blocks)


def why_not(device: torch.device) -> Message | None:
    """What this machine lacks to compile; None when nothing."""
    if not any(shutil.which(name) for name in _compilers(device)):
        return Message("compile.no_compiler")
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else Message("compile.no_triton")
    return None


def _compilers(device: torch.device) -> tuple[str, ...]:
    """Any of these will do: Triton wants C for its launchers, the CPU code is C++."""
    if device.type == "cuda":
        return (os.environ.get("CC", "cc"), "gcc", "clang")
    return (os.environ.get("CXX", "g++"), "g++", "clang++")
