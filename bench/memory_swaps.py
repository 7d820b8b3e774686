"""Ways to pass the blocks through the device: this program's, the original program's, and diffusers' two.

Each is a context, entered and left with all weights in ordinary memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import psutil
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from torch import nn

from bench.memory_model import block_sizes, put_modulation, tensors_of
from diffusers_helper.memory.swap import BlockSwap, choose_resident
from diffusers_helper.memory.transport import CudaTransport, Transport, best_transport
from diffusers_helper.models.modulation import modulation_linears
from diffusers_helper.models.transformer import FramePackTransformer

HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")
LOCKED_COPIES = 2
"""diffusers locks a copy of the weights, in blocks of powers of two."""


@dataclass(frozen=True)
class Swapped:
    """A transformer under way.

    Attributes:
        bytes_moved: to the device, so far.
        resident_bytes: of the blocks that stay there.
        pinned_bytes: locked memory of the host.
        between_sections: makes room on the device for another model, and comes back.
    """

    bytes_moved: Callable[[], int]
    resident_bytes: int = 0
    pinned_bytes: int = 0
    between_sections: Callable[[], object] | None = None


@contextmanager
def ours(transformer: FramePackTransformer, device: torch.device, resident_bytes: int) -> Iterator[Swapped]:
    """The prefetching swap."""
    transport = best_transport(device)
    try:
        with transformer.swap_blocks(transport, resident_bytes) as swap:
            resident = swap.device_bytes - swap.ring_bytes
            locked = resident + swap.bytes_per_pass if _locks(transport) else 0
            yield Swapped(lambda: swap.bytes_moved, resident, locked, lambda: _rest(swap))
    finally:
        transformer.block_source = None
        transport.close()
        transformer.to("cpu")


def _locks(transport: Transport) -> bool:
    return isinstance(transport, CudaTransport) and not transport.staged


def _rest(swap: BlockSwap) -> None:
    """Leave the device, and come back until the first block can run."""
    swap.release_idle()
    next(swap())


class BlockingSwap:
    """As the original program swaps: every tensor of a block on its own, from ordinary memory, waited for."""

    def __init__(self, transformer: FramePackTransformer, device: torch.device, resident_bytes: int) -> None:
        self._blocks, self._device = transformer.blocks, device
        sizes = block_sizes(transformer)
        self.resident = choose_resident(sizes, resident_bytes)
        self.resident_bytes = sum(sizes[index] for index in self.resident)
        rest = [child for name, child in transformer.named_children() if not name.endswith("transformer_blocks")]
        read_by_step_caches = transformer.transformer_blocks[0].norm1
        self._stay = [*rest, read_by_step_caches, *(self._blocks[index] for index in self.resident)]
        self.bytes_moved = 0

    def move(self, device: torch.device | str) -> None:
        """Everything that stays while sampling."""
        for module in self._stay:
            module.to(device)

    def leave_and_return(self) -> None:
        """What stays is copied to the host, and back again."""
        self.move("cpu")
        self.move(self._device)
        self.bytes_moved += sum(tensor.nbytes for module in self._stay for tensor in tensors_of(module))

    def __call__(self) -> Iterator[nn.Module]:
        for index, block in enumerate(self._blocks):
            if index in self.resident:
                yield block
            else:
                yield from self._lend(block)

    def _lend(self, block: nn.Module) -> Iterator[nn.Module]:
        tensors = tensors_of(block)
        at_home = [tensor.data for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.data = tensor.data.to(self._device, copy=True)
                self.bytes_moved += tensor.nbytes
            yield block
        finally:
            for tensor, data in zip(tensors, at_home, strict=True):
                tensor.data = data


@contextmanager
def blocking(transformer: FramePackTransformer, device: torch.device, resident_bytes: int) -> Iterator[Swapped]:
    """The original program's swap, of the weights as they are."""
    swap = BlockingSwap(transformer, device, resident_bytes)
    transformer.block_source = swap
    with _brought_home(transformer):
        try:
            swap.move(device)
            yield Swapped(lambda: swap.bytes_moved, swap.resident_bytes, 0, swap.leave_and_return)
        finally:
            transformer.block_source = None


@contextmanager
def official(
    linears: Mapping[str, nn.Module], transformer: FramePackTransformer, device: torch.device, resident_bytes: int
) -> Iterator[Swapped]:
    """The original program's swap, with the modulation ``linears``: it has no table."""
    table, stand_ins = transformer.modulation, modulation_linears(transformer)
    transformer.modulation = None
    put_modulation(transformer, linears)
    try:
        with blocking(transformer, device, resident_bytes) as swapped:
            yield swapped
    finally:
        put_modulation(transformer, stand_ins)
        transformer.modulation = table


@contextmanager
def group_blocks(transformer: FramePackTransformer, device: torch.device, resident_bytes: int) -> Iterator[Swapped]:
    """diffusers' own, by blocks, with a stream where there is one; it knows no resident blocks."""
    with _group_offload(transformer, device, "block_level") as swapped:
        yield swapped


@contextmanager
def group_leaves(transformer: FramePackTransformer, device: torch.device, resident_bytes: int) -> Iterator[Swapped]:
    """diffusers' own, linear by linear. The last projection stays: its weights are used without calling it."""
    at_home = [tensor.data for tensor in tensors_of(transformer.proj_out)]
    with _group_offload(transformer, device, "leaf_level") as swapped:
        _remove_hooks(transformer.proj_out, recurse=False)
        for tensor, data in zip(tensors_of(transformer.proj_out), at_home, strict=True):
            tensor.data = data.to(device)
        yield swapped


@contextmanager
def _group_offload(transformer: FramePackTransformer, device: torch.device, level: str) -> Iterator[Swapped]:
    streams = device.type == "cuda"
    _check_ram(transformer)
    with _brought_home(transformer), _counted() as bytes_moved:
        try:
            transformer.enable_group_offload(
                onload_device=device,
                offload_device=torch.device("cpu"),
                offload_type=level,
                num_blocks_per_group=1,
                use_stream=streams,
            )
            yield Swapped(bytes_moved, 0, _locked_bytes() if streams else 0)
        finally:
            _remove_hooks(transformer)


@contextmanager
def _brought_home(transformer: FramePackTransformer) -> Iterator[None]:
    """Whatever happens, all weights are those in ordinary memory afterwards; nothing is copied back."""
    tensors = tensors_of(transformer)
    at_home = [tensor.data for tensor in tensors]
    try:
        yield
    finally:
        for tensor, data in zip(tensors, at_home, strict=True):
            tensor.data = data


@contextmanager
def _counted() -> Iterator[Callable[[], int]]:
    """The bytes of every group that is brought to the device."""
    moved, onload = [0], ModuleGroup.onload_

    def counting(group: ModuleGroup) -> None:
        tensors = {*group.parameters, *group.buffers, *(t for module in group.modules for t in tensors_of(module))}
        moved[0] += sum(tensor.nbytes for tensor in tensors)
        onload(group)

    with patch.object(ModuleGroup, "onload_", counting):
        yield lambda: moved[0]


def _remove_hooks(module: nn.Module, recurse: bool = True) -> None:
    for part in module.modules() if recurse else (module,):
        registry: Any = getattr(part, "_diffusers_hook", None)
        for hook in HOOKS if registry else ():
            registry.remove_hook(hook, recurse=False)


def _check_ram(transformer: FramePackTransformer) -> None:
    """Ask first: a process that takes too much RAM is ended, not told."""
    needed, free = LOCKED_COPIES * transformer.weights_bytes(), psutil.virtual_memory().available
    if free < needed:
        raise MemoryError(f"locked memory may take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB of RAM are free")


def _locked_bytes() -> int:
    return int(torch.cuda.host_memory_stats().get("allocated_bytes.current", 0))


Way = Callable[[FramePackTransformer, torch.device, int], AbstractContextManager[Swapped]]


def ways(linears: Mapping[str, nn.Module]) -> dict[str, Way]:
    """By name; ``linears`` are those that the table stands for."""
    return {
        "official style": partial(official, linears),
        "ours": ours,
        "official style, with the table": blocking,
        "group offload, blocks": group_blocks,
        "group offload, leaves": group_leaves,
    }
