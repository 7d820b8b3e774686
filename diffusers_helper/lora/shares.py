"""How much each file counts in an average over a training run, as numbers alone.

An exponential moving average takes one file after the other: W = beta * W + (1 - beta) * V, where W begins as the first
file and V is the next one. What differs is beta: the same for all, from one value to another in equal steps, or as the
power function of Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", which weighs
the file at time t as t^gamma, whatever the length of the training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UnusableInput
from ..words import Message

DEFAULT_BETA = 0.95
LEAST_SIGMA_REL, MOST_SIGMA_REL = 0.001, 0.3
"""Of the profile's width: there is no power function above 0.3002, and below the least only the last file counts."""


@dataclass(frozen=True)
class Profile:
    """By which rule the files count.

    Attributes:
        beta: how much of the average stays when a file joins, for the second file.
        beta2: the same for the last file; in equal steps between. None is ``beta``.
        sigma_rel: the width of the power function, relative to the length of the training; it goes before ``beta``.
    """

    beta: float = DEFAULT_BETA
    beta2: float | None = None
    sigma_rel: float | None = None

    def __post_init__(self) -> None:
        """Raises UnusableInput for a value out of range, naming it."""
        for name, value in (("beta", self.beta), ("beta2", self.beta2)):
            if value is not None and not 0 <= value <= 1:
                raise UnusableInput(Message("ema.beta", name=name, given=f"{value:g}"))
        if self.sigma_rel is not None and not LEAST_SIGMA_REL <= self.sigma_rel <= MOST_SIGMA_REL:
            limits = {"low": f"{LEAST_SIGMA_REL:g}", "high": f"{MOST_SIGMA_REL:g}"}
            raise UnusableInput(Message("ema.sigma_rel", given=f"{self.sigma_rel:g}", **limits))

    def betas(self, files: int) -> tuple[float, ...]:
        """One for each of ``files`` but the first."""
        joins = range(files - 1)
        if self.sigma_rel is not None:
            exponent = gamma_of(self.sigma_rel) + 1
            return tuple((1 - 1 / (join + 1)) ** exponent for join in joins)
        step = ((self.beta if self.beta2 is None else self.beta2) - self.beta) / max(files - 2, 1)
        return tuple(self.beta + step * join for join in joins)


def gamma_of(sigma_rel: float) -> float:
    """The exponent of the power function of this relative width: the paper's algorithm 2.

    It is the largest root of g^3 + 7 g^2 + (16 - s) g + (12 - s) with s = sigma_rel^-2, which is where
    sigma_rel = sqrt(g + 1) / ((g + 2) sqrt(g + 3)); negative above 12^-0.5 = 0.2887. Sought by halving: beyond the
    widest function, at g = -0.382, the width falls as the exponent grows.
    """
    low, high = (math.sqrt(5) - 3) / 2, sigma_rel**-1
    while low < (middle := (low + high) / 2) < high:
        wide = math.sqrt(middle + 1) / ((middle + 2) * math.sqrt(middle + 3)) > sigma_rel
        low, high = (middle, high) if wide else (low, middle)
    return middle


def shares(betas: Sequence[float]) -> tuple[float, ...]:
    """What each file counts in the average, the first to begin with; together 1."""
    found = [1.0]
    for beta in betas:
        found = [*(share * beta for share in found), 1 - beta]
    return tuple(found)
