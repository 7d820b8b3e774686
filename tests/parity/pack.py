"""Reads a parity pack: numbers recorded from the original program. Every size comes from its files.

PARITY_DIR names another pack in the same format; data/README.md says what each file means.

What was recorded on one processor comes out a little differently on another. Its vector code rounds ``exp`` and ``log``
another way, in the last bit; the timestep's frequencies are such an ``exp``, and are multiplied by 1,000 and more.
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

PROCESSORS_APART = 1e-4
"""Of the output's norm. Each frequency one unit in the last place off moves velocities by 8e-5 of their norm, and clean
predictions by 9e-5; processors differ in a few of them (1.5e-5 seen). On the processor that recorded it is 2e-7."""

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


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = PROCESSORS_APART) -> None:
    """The difference, relative to the norm of what is expected."""
    assert actual.shape == expected.shape
    difference = ((actual.double() - expected.double()).norm() / expected.double().norm()).item()
    assert difference <= tolerance, f"{difference:.2e} of the norm is above {tolerance:.0e}"


def assert_same_but_for_rounding(actual: Tensor, expected: Tensor) -> None:
    """Drawn noise and noise levels: equal but for the last bits of ``log``, ``cos`` and sums."""
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=4e-6)


def trajectory_tolerance(steps: int) -> float:
    """The pack README's suggestion: float32 multistep coefficients are ill-conditioned for small steps."""
    return 1e-4 if steps <= 11 else 2e-3 if steps <= 30 else 5e-3
