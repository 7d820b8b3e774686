"""The step loop. It is a generator: what it yields after each step is the one seam for progress, preview and cancel.

Shapes: latents are [B, C, T, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from .. import faults
from .unipc import FlowUniPC


@dataclass(frozen=True)
class StepState:
    """One evaluated step, from 0 on: the noise level, the state it was evaluated at, and the clean prediction."""

    step: int
    sigma: Tensor
    x: Tensor
    denoised: Tensor


def sample(
    denoiser: Callable[[Tensor, Tensor], Tensor], noise: Tensor, sigmas: Tensor, solver_type: str = "bh1"
) -> Iterator[StepState]:
    """Sample from ``noise``, one evaluation per step. The last state's ``denoised`` is the result.

    Args:
        denoiser: (x, sigma) -> clean prediction, shaped as ``x``.
        noise: the state at ``sigmas[0]``, float32.
        sigmas: [steps + 1] float32, descending to 0.
    """
    solver = FlowUniPC.for_sigmas(sigmas, solver_type)
    x, steps = noise, len(sigmas) - 1
    for step in range(steps):
        denoised = denoiser(x, sigmas[step])
        if faults.passing("step") == "nan":
            denoised = denoised * math.nan
        yield StepState(step, sigmas[step], x, denoised)
        if step + 1 < steps:
            x = solver.advance(step, denoised, x)
