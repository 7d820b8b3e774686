"""Moving models between RAM and GPU: how much is free, moves that leave some free, loads in pieces, weights on call.

The names and signatures are those of the original program and of its documents. Here GB are 2**30 bytes, as there. On a
machine without CUDA everything can be imported; what then happens is said at each function. A move to another device
than a CUDA one is a plain move everywhere.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import weakref
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .errors import OutOfMemory, UnusableInput
from .settings import ALLOCATOR_VARIABLES

log = logging.getLogger(__name__)

GB = 2**30
CACHE_EMPTIED_EVERY = 10
AGGRESSIVE_SHARE = 0.8

OUT_OF_RAM = "DefaultCPUAllocator"
OUT_OF_MEMORY = (
    OUT_OF_RAM,
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",  # with expandable segments
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # no room for its handle
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",  # as cuDNN 9 says it, of the host and of the device
    "unable to find an engine to execute this computation",  # each engine's workspace was refused, which PyTorch hides
    "Unable to find a valid cuDNN algorithm",
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED",  # PyTorch asks how much is free, in a container that does not tell
)
"""What is in the messages of errors that are no torch.OutOfMemoryError."""

cpu = torch.device("cpu")
gpu = torch.device("cuda")
"""The current CUDA device; may be named, but not used, where there is none."""


def get_cuda_free_memory_gb(device: torch.device | str | None = None) -> float:
    """What a CUDA device can still give, in GB: free for the driver, or held by PyTorch and unused. Without CUDA 0."""
    if not torch.cuda.is_available():
        return 0.0
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + held) / GB


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
            _empty_cache()
    _empty_cache()


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
            _empty_cache()
    _empty_cache()


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
                tensor.data = _moved(tensor.data, place)
            _empty_cache()
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"a model does not fit into the memory of {target}; close other programs") from error
        moved += places


def force_free_vram(target_gb: float) -> float:
    """Give back all GPU memory that is not in use, models of ``load_model_as_complete`` too where that is not enough.

    Returns how many GB are free then, and logs a warning where that is less than ``target_gb``. Without CUDA 0.
    Raises UnusableInput for a negative number.
    """
    _check_amount(target_gb)
    free_unused()
    if get_cuda_free_memory_gb() < target_gb:
        unload_complete_models()
        free_unused()
    free = get_cuda_free_memory_gb()
    if free < target_gb:
        why = "" if torch.cuda.is_available() else ": there is no CUDA device"
        log.warning("%.1f GB of GPU memory are free, %.1f were asked for%s", free, target_gb, why)
    return free


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was too little memory: of a GPU, or RAM, which libraries tell in many words."""
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    return told or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def is_out_of_ram(error: BaseException) -> bool:
    """Whether it was RAM. A library that allocates in both does not always tell; then it is taken for the GPU."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_RAM in str(error))


def segments_grow() -> bool:
    """Whether PyTorch's CUDA allocator was told to put memory that is free here and there together; it can on Linux."""
    told = next(filter(None, map(os.environ.get, ALLOCATOR_VARIABLES)), "")
    return sys.platform == "linux" and "expandable_segments:True" in told.replace(" ", "")


def free_unused() -> None:
    """Let go of what no variable holds, and give PyTorch's cache back to the driver."""
    gc.collect()
    _empty_cache()


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
    _empty_cache()


@cache
def _complete_models() -> weakref.WeakSet[nn.Module]:
    return weakref.WeakSet()


class DynamicSwapInstaller:
    """Weights on call: a model stays in RAM, and each of its weights is copied to the GPU whenever it is asked for.

    It suits models that are used seldom; nothing is copied ahead and nothing is copied back, and a copy is gone after
    its use. A module of any class will do, as long as it asks for its weights by name; a model that names its
    ``device`` names the one it computes on. Works without CUDA too, for other devices and for dtypes.
    """

    @staticmethod
    def install_model(model: nn.Module, **kwargs: Any) -> None:
        """Let every weight arrive as ``weight.to(**kwargs)``; ``kwargs`` are Tensor.to's, such as ``device``.

        Raises UnusableInput for a CUDA device where there is none. Installing again replaces the ``kwargs``.
        """
        if "device" in kwargs:
            _checked(kwargs["device"], 0)
        DynamicSwapInstaller.uninstall_model(model)
        for module in model.modules():
            original = module.__class__
            if hasattr(original, "device") or any(True for _ in _own_tensors(module)):
                module.__dict__["_class_before_swap"] = original
                module.__class__ = _on_call(original, kwargs)

    @staticmethod
    def uninstall_model(model: nn.Module) -> None:
        """Let every weight be itself again; does nothing where nothing is installed."""
        for module in model.modules():
            original = module.__dict__.pop("_class_before_swap", None)
            if original is not None:
                module.__class__ = original


def _on_call(original: type[nn.Module], kwargs: dict[str, Any]) -> type[nn.Module]:
    """A class whose modules get their weights on call. Printed it reads as the original: transformers keeps what it
    knows of a class under that text, such as which outputs are hidden states."""
    members = {"__getattr__": _arriving(original, kwargs)}
    members |= {"__module__": original.__module__, "__qualname__": original.__qualname__}
    if "device" in kwargs and hasattr(original, "device"):
        members["device"] = torch.device(kwargs["device"])
    return type(f"DynamicSwap_{original.__name__}", (original,), members)


def _arriving(original: type[nn.Module], kwargs: dict[str, Any]) -> Any:
    """A ``__getattr__`` that hands out copies of parameters and buffers; everything else is the class's own."""

    def __getattr__(self: nn.Module, name: str) -> Any:  # noqa: N807  # it becomes one
        for weights in (self.__dict__.get("_parameters", {}), self.__dict__.get("_buffers", {})):
            if name in weights:
                return _copied(weights[name], kwargs)
        return original.__getattr__(self, name)

    return __getattr__


def _copied(weight: Tensor | None, kwargs: dict[str, Any]) -> Tensor | None:
    if weight is None:
        return None
    copy = weight.to(**kwargs)
    return nn.Parameter(copy, requires_grad=weight.requires_grad) if type(weight) is nn.Parameter else copy


class Loan:
    """A model whose weights stay in RAM; what is on the GPU meanwhile is a copy, dropped when the model leaves."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._own: list[tuple[Tensor, Tensor]] = []

    @property
    def away(self) -> bool:
        """Whether the model is on another device."""
        return bool(self._own)

    @property
    def bytes_away(self) -> int:
        """What it takes of the other device."""
        return sum(own.nbytes for _, own in self._own)

    @torch.inference_mode(False)
    def go(self, device: torch.device) -> None:
        """Copy all weights to ``device``; whatever fails on the way, the model is back in RAM."""
        if self.away:
            return
        try:
            for tensor, copy in _copies(_tensors(self.model), device):
                self._own.append((tensor, tensor.data))
                tensor.data = copy
        except BaseException:
            self.leave()
            raise

    @torch.inference_mode(False)
    def leave(self) -> None:
        """Drop the copies. Nothing is copied back."""
        if not self.away:
            return
        for tensor, own in self._own:
            tensor.data = own
        self._own.clear()
        _empty_cache()


def _checked(device: torch.device | str, amount: float) -> torch.device:
    """The device, if it can be used."""
    _check_amount(amount)
    target = torch.device(device)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise UnusableInput(f"{target} was asked for, but PyTorch sees no CUDA device; `bash start.sh doctor` says why")
    return target


def _check_amount(amount: float) -> None:
    if not 0 <= amount < float("inf"):
        raise UnusableInput(f"an amount of memory must be 0 or more, not {amount}")


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers(), *map(_beside_packed, model.modules()))


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Without those of the modules in it."""
    return chain(module.parameters(recurse=False), module.buffers(recurse=False), _beside_packed(module))


def _beside_packed(module: nn.Module) -> Iterator[Tensor]:
    """What bitsandbytes keeps beside a packed weight, where no module lists it: scales, code books, the codes again."""
    weight = module._parameters.get("weight")
    packed = getattr(weight, "quant_state", None)
    of_8_bits, of_4_bits = ("CB", "SCB"), ("absmax", "code", "offset")
    for holder, names in (
        (weight, of_8_bits),
        (getattr(module, "state", None), of_8_bits),
        (packed, of_4_bits),
        (getattr(packed, "state2", None), of_4_bits),
    ):
        found = (getattr(holder, name, None) for name in names)
        yield from (tensor for tensor in found if isinstance(tensor, Tensor))


def _with_weights(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that have weights of their own."""
    return (module for module in model.modules() if any(True for _ in _own_tensors(module)))


def _move_own(module: nn.Module, device: torch.device) -> None:
    """Move a module's own weights, without those of the modules in it."""
    for tensor, copy in _copies(_own_tensors(module), device):
        tensor.data = copy


def _copies(tensors: Iterable[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Each tensor with its copy on ``device``; those that share their bytes go on sharing them."""
    made: dict[tuple[int, torch.Size, torch.dtype], Tensor] = {}
    for tensor in tensors:
        content = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if content not in made:
            made[content] = _moved(tensor.data, device)
        yield tensor, made[content]


def _pieces(model: nn.Module, largest_bytes: int) -> Iterator[list[Tensor]]:
    piece: list[Tensor] = []
    size = 0
    for tensor in _tensors(model):
        if piece and size + tensor.nbytes > largest_bytes:
            yield piece
            piece, size = [], 0
        piece.append(tensor)
        size += tensor.nbytes
    if piece:
        yield piece


def _move_piece(piece: list[Tensor], target: torch.device) -> None:
    """Move some tensors; once more after freeing when they do not fit, what the first try has made included."""
    copies = _copies_or_none(piece, target)
    if copies is None:
        free_unused()
        copies = list(_copies(piece, target))
    for tensor, copy in copies:
        tensor.data = copy


def _copies_or_none(piece: list[Tensor], target: torch.device) -> list[tuple[Tensor, Tensor]] | None:
    """None when they do not fit; its failure is gone then, whose frames would hold some."""
    try:
        return list(_copies(piece, target))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device)


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
