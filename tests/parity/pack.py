"""Reads a parity pack: numbers recorded from the original program. Every size comes from its files.

PARITY_DIR names another pack in the same format; data/README.md says what each file means.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from diffusers_helper.models.transformer import FramePackTransformer

PACK = Path(os.environ.get("PARITY_DIR") or Path(__file__).parent / "data")


@cache
def tensors(name: str) -> dict[str, Tensor]:
    with safe_open(PACK / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping


@cache
def metadata(name: str) -> dict[str, str]:
    with safe_open(PACK / f"{name}.safetensors", "pt") as file:
        return file.metadata() or {}


@cache
def record(name: str) -> Any:
    return json.loads((PACK / f"{name}.json").read_text())


@cache
def transformer(dtype: torch.dtype = torch.float32) -> FramePackTransformer:
    return FramePackTransformer.from_pretrained(PACK / "model", torch_dtype=dtype).eval()


def group(values: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under ``prefix.``, without it."""
    return {key.removeprefix(prefix + "."): value for key, value in values.items() if key.startswith(prefix + ".")}


def cases(name: str) -> list[str]:
    """The distinct first parts of the keys that have an output."""
    return sorted({key.split(".")[0] for key in tensors(name) if key.endswith(".output")})


def context_inputs(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The pack's context tensors under diffusers' argument names; an absent level stays absent."""
    names = {
        "latent_indices": "indices_latents",
        "clean_latents": "latents_clean",
        "clean_latent_indices": "indices_latents_clean",
        "clean_latents_2x": "latents_history_2x",
        "clean_latent_2x_indices": "indices_latents_history_2x",
        "clean_latents_4x": "latents_history_4x",
        "clean_latent_4x_indices": "indices_latents_history_4x",
    }
    found = {names[key]: value for key, value in values.items() if key in names}
    return {key: value[0] if key.startswith("indices") else value for key, value in found.items()}


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    difference = (actual.float() - expected.float()).abs().max().item()
    assert difference <= tolerance, f"max abs difference {difference:.2e} is above {tolerance:.0e}"


def trajectory_tolerance(steps: int) -> float:
    """The pack README's suggestion: float32 multistep coefficients are ill-conditioned for small steps."""
    return 1e-4 if steps <= 11 else 2e-3 if steps <= 30 else 5e-3
