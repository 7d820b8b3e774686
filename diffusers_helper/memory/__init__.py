"""Everything about memory: what fits, who is on the GPU when, how weights get there, and what happens when it runs out.

The package itself offers the names that the original program's documents promise (moves.py, on_demand.py). They are
imported when they are asked for: the plan and what it is made of (plan.py, candidates.py, costs.py, lessons.py,
host.py) serve where no torch is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .moves import (
        cpu,
        force_free_vram,
        get_cuda_free_memory_gb,
        gpu,
        load_model_as_complete,
        load_model_chunked,
        move_model_to_device_with_memory_preservation,
        offload_model_from_device_for_memory_preservation,
        unload_complete_models,
    )
    from .on_demand import DynamicSwapInstaller

__all__ = [
    "DynamicSwapInstaller",
    "cpu",
    "force_free_vram",
    "get_cuda_free_memory_gb",
    "gpu",
    "load_model_as_complete",
    "load_model_chunked",
    "move_model_to_device_with_memory_preservation",
    "offload_model_from_device_for_memory_preservation",
    "unload_complete_models",
]


def __getattr__(name: str) -> Any:
    """A promised name, from the file that has it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = "on_demand" if name == "DynamicSwapInstaller" else "moves"
    return getattr(import_module(f"{__name__}.{file}"), name)
