"""An empty transformer, and weights by name into it: the one way in, whatever numbers the weights are kept in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import UnusableCheckpoint
from ..words import Message, joined
from .shards import WeightSource, damaged
from .transformer import FramePackTransformer


def empty_transformer(folder: Path, dtype: torch.dtype) -> FramePackTransformer:
    """Its shape by the config in ``folder``, on the meta device; raises UnusableCheckpoint for a damaged one."""
    try:
        with torch.device("meta"):
            transformer: FramePackTransformer = FramePackTransformer.from_config(
                FramePackTransformer.load_config(folder, local_files_only=True)
            )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged("transformer", folder, error) from error
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(dtype)
    return transformer


def fill(
    transformer: FramePackTransformer,
    source: WeightSource,
    folder: Path,
    made: Mapping[str, torch.Tensor] | None = None,
) -> FramePackTransformer:
    """Give it its weights, where they are, in the numbers that it has been shaped for; what has them already is taken
    as it is, mapped if it is mapped. Returns it in evaluation mode.

    Args:
        source: has all of its names but those of ``made``; others are ignored.
        folder: where they come from, for errors.
        made: weights that the source does not have as they shall be.

    Raises:
        UnusableCheckpoint: a weight is missing or of another shape, or a file is damaged.
    """
    shapes = transformer.state_dict()
    ready = made or {}
    missing = [name for name in shapes if name not in ready and name not in source]
    if missing:
        told = Message("checkpoint.lacks_many", folder=str(folder), count=len(missing), name=missing[0])
        raise UnusableCheckpoint(joined(told, Message("checkpoint.fetch_files")))
    weights = {
        name: ready[name] if name in ready else shaped(source, name, slot.shape, folder).to(slot.dtype)
        for name, slot in shapes.items()
    }
    transformer.load_state_dict(weights, assign=True)
    return transformer.eval().requires_grad_(False)


def shaped(source: WeightSource, name: str, shape: torch.Size, folder: Path) -> torch.Tensor:
    """A weight of the source; raises UnusableCheckpoint when it is missing or has another shape."""
    if name not in source:
        told = Message("checkpoint.lacks_one", folder=str(folder), name=name)
        raise UnusableCheckpoint(joined(told, Message("checkpoint.fetch_files")))
    tensor = source[name]
    if tensor.shape != shape:
        shapes = {"found": str(tuple(tensor.shape)), "promised": str(tuple(shape))}
        raise UnusableCheckpoint(Message("checkpoint.wrong_shape", name=name, folder=str(folder), **shapes))
    return tensor
