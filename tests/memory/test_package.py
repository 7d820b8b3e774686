"""The memory room from outside: the names that are promised, and what of it serves without torch."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import pytest
import torch

from diffusers_helper import memory

from ..conftest import ROOT

SIGNATURES = {
    "get_cuda_free_memory_gb": "(device=None)",
    "move_model_to_device_with_memory_preservation": "(model, target_device, preserved_memory_gb=0, aggressive=False)",
    "offload_model_from_device_for_memory_preservation": (
        "(model, target_device, preserved_memory_gb=0, aggressive=False)"
    ),
    "load_model_chunked": "(model, target_device, max_chunk_size_mb=256)",
    "force_free_vram": "(target_gb)",
    "load_model_as_complete": "(model, target_device, unload=True)",
    "unload_complete_models": "(*models)",
}
TORCH_FREE = ("candidates", "costs", "host", "lessons", "plan", "planner", "units")


@pytest.mark.parametrize("name", SIGNATURES)
def test_promised_functions_have_the_promised_signature(name: str) -> None:
    signature = inspect.signature(getattr(memory, name))
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    assert str(inspect.Signature(plain)) == SIGNATURES[name]


def test_all_that_is_promised_is_there_and_nothing_else() -> None:
    assert {*SIGNATURES, "DynamicSwapInstaller", "cpu", "gpu"} == {*memory.__all__}
    assert (memory.cpu, memory.gpu) == (torch.device("cpu"), torch.device("cuda"))
    assert inspect.isclass(memory.DynamicSwapInstaller)
    with pytest.raises(AttributeError, match="no attribute 'Loan'"):
        memory.Loan  # type: ignore[attr-defined]  # noqa: B018


def test_plans_need_no_torch() -> None:
    imports = "; ".join(f"import diffusers_helper.memory.{name}" for name in TORCH_FREE)
    program = f"import sys; sys.modules['torch'] = None; {imports}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert import_module("diffusers_helper.memory.plan").plan_memory
