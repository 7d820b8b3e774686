"""The tensors of a model, also those that it lists nowhere, and copies of them on another device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """All of them."""
    return chain(model.parameters(), model.buffers(), *map(_beside_packed, model.modules()))


def own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Without those of the modules in it."""
    return chain(module.parameters(recurse=False), module.buffers(recurse=False), _beside_packed(module))


def bytes_of(model: nn.Module) -> int:
    """Of parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def copies(tensors: Iterable[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Each tensor with its copy on ``device``; those that share their bytes go on sharing them."""
    made: dict[tuple[int, torch.Size, torch.dtype], Tensor] = {}
    for tensor in tensors:
        content = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if content not in made:
            made[content] = moved(tensor.data, device)
        yield tensor, made[content]


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On ``device``; the same tensor where it is there already."""
    return tensor.to(device)


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
