"""Moving models between RAM and GPU as the original program's documents promise it: moves that leave some memory free,
and loads in pieces.

Names and signatures are theirs. Here GB are 2**30 bytes, as there. On a machine without CUDA everything can be
imported; what then happens is said at each function. A move to another device than a CUDA one is a plain move.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn

from ..errors import OutOfMemory, UnusableInput
from ..words import Message
from . import tensors, vram
from .shortage import is_out_of_memory
from .units import GIB

log = logging.getLogger(__name__)

CACHE_EMPTIED_EVERY = 10
AGGRESSIVE_SHARE = 0.8

cpu = torch.device("cpu")
gpu = torch.device("cuda")
"""The current CUDA device; may be named, but not used, where there is none."""


def get_cuda_free_memory_gb(device: torch.device | str | None = None) -> float:
    """What a CUDA device can still give, in GB: free for the driver, or held by PyTorch and unused. Without CUDA 0."""
    if not torch.cuda.is_available():
        return 0.0
    return vram.unused_bytes(device) / GIB


def move_model_to_device_with_memory_preservation(
    model: nn.Module, target_device: torch.device | str, preserved_memory_gb: float = 0, aggressive: bool = False
) -> None:
    """Move ``model``, module by module, until only ``preserved_memory_gb`` are free; the rest stays where it is.

    Args:
        aggressive: go on until only 80 % of ``preserved_memory_gb`` are free, and empty PyTorch's cache every 10
            modules on the way.

    Raises:
        UnusableInput: a negative number, or a CUDA device where there is none.
    """
    target = _checked(target_device, preserved_memory_gb)
    limit = preserved_memory_gb * (AGGRESSIVE_SHARE if aggressive else 1)
    for number, module in enumerate(_with_weights(model), 1):
        if target.type == "cuda" and get_cuda_free_memory_gb(target) <= limit:
            break
        _move_own(module, target)
        if aggressive and number % CACHE_EMPTIED_EVERY == 0:
            vram.empty_cache()
    vram.empty_cache()


def offload_model_from_device_for_memory_preservation(
    model: nn.Module, target_device: torch.device | str, preserved_memory_gb: float = 0, aggressive: bool = False
) -> None:
    """Move ``model`` to RAM, module by module, until ``preserved_memory_gb`` are free on ``target_device``.

    Args:
        aggressive: go on past that until all of it is in RAM, and empty PyTorch's cache every 10 modules on the way.

    Raises:
        UnusableInput: a negative number, or a CUDA device where there is none.
    """
    source = _checked(target_device, preserved_memory_gb)
    for number, module in enumerate(_with_weights(model), 1):
        if not aggressive and source.type == "cuda" and get_cuda_free_memory_gb(source) >= preserved_memory_gb:
            break
        _move_own(module, cpu)
        if aggressive and number % CACHE_EMPTIED_EVERY == 0:
            vram.empty_cache()
    vram.empty_cache()


def load_model_chunked(model: nn.Module, target_device: torch.device | str, max_chunk_size_mb: float = 256) -> None:
    """Move ``model`` in pieces of at most ``max_chunk_size_mb`` MB (2**20 bytes), or of one larger tensor; 0 moves it
    at once. A piece that does not fit is tried again after freeing what nobody uses.

    Raises:
        OutOfMemory: it does not fit; the model is back where it was.
        UnusableInput: a negative size, or a CUDA device where there is none.
    """
    target = _checked(target_device, max_chunk_size_mb)
    if max_chunk_size_mb == 0:
        model.to(target)
        return
    moved: list[tuple[Tensor, torch.device]] = []
    for piece in _pieces(model, int(max_chunk_size_mb * 2**20)):
        places = [(tensor, tensor.device) for tensor in piece]
        try:
            _move_piece(piece, target)
        except RuntimeError as error:
            for tensor, place in (*moved, *places):
                tensor.data = tensors.moved(tensor.data, place)
            vram.empty_cache()
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(Message("memory.model_too_large", device=str(target))) from error
        moved += places


def force_free_vram(target_gb: float) -> float:
    """Give back all GPU memory that is not in use, models of ``load_model_as_complete`` too where that is not enough.

    Returns how many GB are free then, and logs a warning where that is less than ``target_gb``. Without CUDA 0.
    Raises UnusableInput for a negative number.
    """
    _check_amount(target_gb)
    vram.free_unused()
    if get_cuda_free_memory_gb() < target_gb:
        unload_complete_models()
        vram.free_unused()
    free = get_cuda_free_memory_gb()
    if free < target_gb:
        why = "" if torch.cuda.is_available() else ": there is no CUDA device"
        log.warning("%.1f GB of GPU memory are free, %.1f were asked for%s", free, target_gb, why)
    return free


def load_model_as_complete(model: nn.Module, target_device: torch.device | str, unload: bool = True) -> None:
    """Move the whole of ``model`` and remember it; with ``unload``, those that were moved before leave first.

    Raises UnusableInput for a CUDA device where there is none.
    """
    target = _checked(target_device, 0)
    if unload:
        unload_complete_models()
    model.to(target)
    _complete_models().add(model)


def unload_complete_models(*models: nn.Module) -> None:
    """Move to RAM what ``load_model_as_complete`` has moved, and ``models``."""
    for model in (*_complete_models(), *models):
        model.to(cpu)
    _complete_models().clear()
    vram.empty_cache()


@cache
def _complete_models() -> weakref.WeakSet[nn.Module]:
    return weakref.WeakSet()


def _checked(device: torch.device | str, amount: float) -> torch.device:
    """The device, if it can be used."""
    _check_amount(amount)
    return vram.usable_device(device)


def _check_amount(amount: float) -> None:
    if not 0 <= amount < float("inf"):
        raise UnusableInput(f"an amount of memory must be 0 or more, not {amount}")


def _with_weights(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that have weights of their own."""
    return (module for module in model.modules() if any(True for _ in tensors.own_tensors(module)))


def _move_own(module: nn.Module, device: torch.device) -> None:
    """Move a module's own weights, without those of the modules in it."""
    for tensor, copy in tensors.copies(tensors.own_tensors(module), device):
        tensor.data = copy


def _pieces(model: nn.Module, largest_bytes: int) -> Iterator[list[Tensor]]:
    piece: list[Tensor] = []
    size = 0
    for tensor in tensors.tensors_of(model):
        if piece and size + tensor.nbytes > largest_bytes:
            yield piece
            piece, size = [], 0
        piece.append(tensor)
        size += tensor.nbytes
    if piece:
        yield piece


def _move_piece(piece: list[Tensor], target: torch.device) -> None:
    """Move some tensors; once more after freeing when they do not fit, what the first try has made included."""
    copied = _copies_or_none(piece, target)
    if copied is None:
        vram.free_unused()
        copied = list(tensors.copies(piece, target))
    for tensor, copy in copied:
        tensor.data = copy


def _copies_or_none(piece: list[Tensor], target: torch.device) -> list[tuple[Tensor, Tensor]] | None:
    """None when they do not fit; its failure is gone then, whose frames would hold some."""
    try:
        return list(tensors.copies(piece, target))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
