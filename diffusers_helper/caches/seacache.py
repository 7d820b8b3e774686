"""SeaCache: compare the noisy input after a filter that keeps what this noise level lets show (arXiv:2602.18993).

Early in the sampling only coarse structure can be told from the noise, later fine structure too. The filter is the
Wiener filter of a signal whose power falls with the frequency, so that what is compared is content rather than noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from .step_cache import BlockPass, Measured, ResidualCache, ResidualOption, Rule, relative_l1

if TYPE_CHECKING:
    from torch import Tensor

POWER_EXPONENT = 3.0
"""The power of a video's signal falls with this power of the frequency."""
IN_A_ROW = 2
SMALLEST = 1e-6


class SeaCache(ResidualCache):
    """Sums up the relative L1 change of the filtered noisy latents, [B, C, T, H, W]."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._filtered: Tensor | None = None

    def estimate(self, blocks: BlockPass) -> float:
        """See ResidualCache."""
        before, self._filtered = self._filtered, spectral_filter(blocks.noisy, self._sigma)
        if before is None or before.shape != self._filtered.shape:
            return math.inf
        return self.error + relative_l1(self._filtered, before)


def spectral_filter(noisy: Tensor, sigma: float) -> Tensor:
    """Noisy latents [B, C, T, H, W], (1 - sigma) signal + sigma noise, with every frequency weighted by how much of it
    is signal; float32.

    The gain is the product of one for each axis and has the mean 1 (equation 7 of the paper). So it is a matrix for
    each axis, and needs no Fourier transform of the latents.
    """
    filtered = noisy.float()
    for axis in (-3, -2, -1):
        matrix = filtered.new_tensor(_circulant(gains(noisy.shape[axis], sigma)))
        filtered = (filtered.movedim(axis, -1) @ matrix).movedim(-1, axis)
    return filtered


def gains(size: int, sigma: float) -> list[float]:
    """Of the frequencies k / size of an axis, with the mean 1: (1 - sigma) S / ((1 - sigma)^2 S + sigma^2), where
    S = |frequency|^-POWER_EXPONENT is the power of the signal."""
    sigma = min(max(sigma, SMALLEST), 1 - SMALLEST)
    frequencies = [min(k, size - k) / size for k in range(size)]
    found = [(1 - sigma) / ((1 - sigma) ** 2 + sigma**2 * each**POWER_EXPONENT) for each in frequencies]
    return [gain * size / sum(found) for gain in found]


def _circulant(gains: Sequence[float]) -> list[list[float]]:
    """The matrix, [size, size], that weights the frequencies of a row vector."""
    size = len(gains)
    kernel = [sum(g * math.cos(2 * math.pi * k * j / size) for k, g in enumerate(gains)) / size for j in range(size)]
    return [[kernel[(row - column) % size] for column in range(size)] for row in range(size)]


class SeaCacheOption(ResidualOption):
    """SeaCache as a recipe asks for it. What it compares has the size of the latents, a small part of a token's."""

    name: ClassVar[str] = "seacache"
    title: ClassVar[str] = "SeaCache"

    threshold: float = Field(default=0.25, ge=0, le=2, description="higher reuses more; 0.15 is the quality setting")

    def make(self, sigmas: Sequence[float], measured: Measured) -> SeaCache:
        """See ``StepCacheOption``."""
        return SeaCache(self.rule(sigmas, in_a_row=IN_A_ROW))
