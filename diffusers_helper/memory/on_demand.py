"""Weights on demand: a model stays in RAM, and each of its weights comes to the device whenever it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import tensors, vram


class DynamicSwapInstaller:
    """Weights on demand: a model stays in RAM, and each of its weights is copied to the GPU whenever it is asked for.

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
            vram.usable_device(kwargs["device"])
        DynamicSwapInstaller.uninstall_model(model)
        for module in model.modules():
            original = module.__class__
            if hasattr(original, "device") or any(True for _ in tensors.own_tensors(module)):
                module.__dict__["_class_before_swap"] = original
                module.__class__ = _on_demand(original, kwargs)

    @staticmethod
    def uninstall_model(model: nn.Module) -> None:
        """Let every weight be itself again; does nothing where nothing is installed."""
        for module in model.modules():
            original = module.__dict__.pop("_class_before_swap", None)
            if original is not None:
                module.__class__ = original


@contextmanager
def weights_on_demand(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While this lasts, the weights of ``model`` come to ``device`` as they are used."""
    DynamicSwapInstaller.install_model(model, device=device)
    try:
        yield
    finally:
        DynamicSwapInstaller.uninstall_model(model)


def _on_demand(original: type[nn.Module], kwargs: dict[str, Any]) -> type[nn.Module]:
    """A class whose modules get their weights on demand. Printed it reads as the original: transformers keeps what it
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
