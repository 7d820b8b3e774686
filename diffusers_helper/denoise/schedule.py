"""Noise levels of the flow schedule, shifted by the number of tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MU_LINE = ((256, 0.5), (4096, 1.15))
SHIFT_MAX = 7.0


def token_count(frames: int, height: int, width: int) -> int:
    """Target tokens of a latent of this size: patches of 1x2x2."""
    return frames * height * width // 4


def flow_mu(tokens: int) -> float:
    """Logarithm of the schedule's shift: a line in the number of tokens, at most ln 7."""
    (x0, y0), (x1, y1) = MU_LINE
    slope = (y1 - y0) / (x1 - x0)
    return min(slope * tokens + (y0 - slope * x0), math.log(SHIFT_MAX))


def flow_sigmas(steps: int, mu: float) -> Tensor:
    """[steps + 1] float32 noise levels from 1 to 0: e^mu / (e^mu + 1/u - 1) for u from 1 down to 0."""
    u = torch.linspace(1, 0, steps + 1)
    shift = math.exp(mu)
    return shift / (shift + (1 / u - 1))
