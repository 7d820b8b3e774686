"""At which noise levels a model is trained, and how much what it gets wrong there counts.

A noise level sigma goes from 0, the picture, to 1, nothing but noise; a timestep is sigma * 1000. How levels are drawn
and weighted is that of Esser et al. 2024 (https://arxiv.org/abs/2403.03206, section 3.1), by diffusers' functions;
the names are musubi's.

Shapes: B samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor

from ..errors import InvalidRequest
from .order import TIMESTEPS, Sampling, Weighting

MOST_TRIES = 10_000


@dataclass(frozen=True)
class NoiseLevels:
    """How noise levels are drawn.

    Attributes:
        sampling: ``uniform``; ``sigmoid`` of a normal number times ``sigmoid_scale``; ``shift``, that shifted;
            ``sigma``, one of the sampler's thousand levels, shifted, drawn by the weighting's density; ``logsnr``, by a
            normal log of the ratio of signal to noise.
        shift: s in s * u / (1 + (s - 1) * u): above 1 more of the levels are noisy ones.
        weighting: how losses at a level count; ``logit_normal`` and ``mode`` weigh nothing, and say how levels are
            drawn where ``sampling`` is ``sigma``.
        logit_mean, logit_std: of ``logit_normal`` and ``logsnr``.
        mode_scale: of ``mode``.
        least, most: timesteps outside of these are not trained.
        keep_shape: levels outside are drawn anew, so that within the bounds the density is as without them; else all
            of it is squeezed into them.
    """

    sampling: Sampling = "shift"
    shift: float = 3.0
    sigmoid_scale: float = 1.0
    weighting: Weighting = "none"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    least: int = 0
    most: int = TIMESTEPS
    keep_shape: bool = False

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels [count], float32. Raises InvalidRequest where none within the bounds is drawn."""
        low, high = self.least / TIMESTEPS, self.most / TIMESTEPS
        if not self.keep_shape:
            return low + (high - low) * self._drawn(count, generator)
        found = self._drawn(count, generator)
        for _ in range(MOST_TRIES):
            outside = (found < low) | (found > high)
            if not outside.any():
                return found
            found[outside] = self._drawn(int(outside.sum()), generator)
        raise InvalidRequest(f"--min-timestep: hardly a noise level lies from {self.least} to {self.most}; widen it")

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        match self.sampling:
            case "uniform":
                return torch.rand(count, generator=generator)
            case "sigmoid":
                return self._sigmoid(count, generator)
            case "shift":
                return shifted(self._sigmoid(count, generator), self.shift)
            case "logsnr":
                return torch.sigmoid(-(self.logit_mean + self.logit_std * torch.randn(count, generator=generator)) / 2)
        return self._of_the_sampler(count, generator)

    def _sigmoid(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.sigmoid(self.sigmoid_scale * torch.randn(count, generator=generator))

    def _of_the_sampler(self, count: int, generator: torch.Generator) -> Tensor:
        density = {"logit_mean": self.logit_mean, "logit_std": self.logit_std, "mode_scale": self.mode_scale}
        places = compute_density_for_timestep_sampling(self.weighting, count, generator=generator, **density)
        levels = shifted(torch.linspace(1, 1 / TIMESTEPS, TIMESTEPS), self.shift)
        return levels[(places * TIMESTEPS).long().clamp(0, TIMESTEPS - 1)]

    def weights(self, sigmas: Tensor) -> Tensor:
        """How much a loss at each level counts, [B]."""
        return compute_loss_weighting_for_sd3(self.weighting, sigmas)


def shifted(levels: Tensor, shift: float) -> Tensor:
    """Noise levels after the time shift of Esser et al. 2024, section 5.3.2."""
    return shift * levels / (1 + (shift - 1) * levels)


def noisy(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """(1 - sigma) * latents + sigma * noise, [B, C, T, H, W], with a level for each sample."""
    levels = sigmas.view(-1, 1, 1, 1, 1)
    return (1 - levels) * latents + levels * noise
