"""What a model gets wrong of one example at one noise level.

Shapes: latents are [1, C, T, H, W].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .examples import Example
from .noise import NoiseLevels, noisy
from .order import TIMESTEPS

Model = Callable[..., Tensor]
GUIDANCE_UNIT = 1000.0


def loss_of(
    model: Model, example: Example, noise: Tensor, sigma: Tensor, levels: NoiseLevels, guidance: float = 1.0
) -> Tensor:
    """The weighted mean squared error of the velocity, a scalar float32 (Esser et al. 2024, section 2: flow matching
    towards noise - latents).

    Args:
        noise: as large as the target.
        sigma: [1], the noise level.
        guidance: the distilled guidance that the model is told.
    """
    device, dtype = noise.device, getattr(model, "dtype", torch.float32)
    target = example.target.to(device)
    x = noisy(target, noise, sigma.to(device))
    inputs = {name: _as_the_model(tensor, device, dtype) for name, tensor in example.inputs().items()}
    made = model(
        hidden_states=x.to(dtype),
        timestep=(sigma * TIMESTEPS).to(device, dtype),
        guidance=torch.tensor([guidance * GUIDANCE_UNIT], device=device, dtype=dtype),
        **inputs,
    )
    error = (made.float() - (noise - target)).square().mean()
    return error * levels.weights(sigma.to(device)).mean()


def _as_the_model(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
