"""One evaluation of the model: from noisy latents to the clean prediction, with the rounding policy of the original.

The model reads everything in its own dtype, timestep and guidance included; its velocity, the sampler's state and the
sigmas are float32. The clean prediction is formed from the *rounded* state, the one that the model has seen.

Shapes: B batch, C latent channels, T latent frames, H and W latent rows and columns, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .guidance import guide

Transformer = Callable[..., Tensor]


@dataclass(frozen=True)
class TextInput:
    """What one CFG branch is told: [B, L, text width] tokens, [B, L] bool mask, [B, pooled width]."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class Guidance:
    """Distilled guidance is an input of the model; real CFG evaluates it twice when above 1."""

    distilled: float = 10.0
    real_cfg: float = 1.0
    rescale: float = 0.0


@dataclass(frozen=True)
class RopeScaling:
    """By what the model's rows and columns are divided, and down to which timestep, sigma * 1000.

    Early steps lay out the picture, so the factor acts on these alone; the default never does anything.
    """

    factor: float = 1.0
    threshold: float = 0.0

    def at(self, sigma: Tensor) -> float:
        """The factor at a noise level, a scalar float32."""
        return self.factor if float(sigma * 1000) >= self.threshold else 1.0


class Denoiser:
    """Clean prediction of noisy latents, for one section.

    Args:
        transformer: called with keyword arguments; returns a float32 velocity [B, C, T, H, W].
        conditioning: further keyword arguments of the transformer, the same on every step and branch.
        positive, negative: the text of the two CFG branches; ``negative`` is needed only for real CFG above 1.
        branch_inputs: keyword arguments of each branch, where state such as a step cache goes.
        rope: handed to both branches as ``rope_factor``, anew at each step.
        dtype, device: of the transformer.
    """

    def __init__(
        self,
        transformer: Transformer,
        conditioning: dict[str, Any],
        positive: TextInput,
        negative: TextInput | None,
        guidance: Guidance,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        branch_inputs: tuple[dict[str, Any], dict[str, Any]] = ({}, {}),
        rope: RopeScaling = RopeScaling(),
    ) -> None:
        self._transformer = transformer
        if guidance.real_cfg != 1 and negative is None:
            raise ValueError("real CFG needs the text of the negative branch")
        self._guidance, self._rope = guidance, rope
        self._dtype, self._device = dtype, device
        shared = {name: self._rounded(value) for name, value in conditioning.items()}
        self._positive = {**shared, **self._text(positive), **branch_inputs[0]}
        self._negative = {**shared, **self._text(negative), **branch_inputs[1]} if negative else None

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Clean prediction [B, C, T, H, W] float32, on the device of ``x``.

        Args:
            x: [B, C, T, H, W] float32, noisy latents.
            sigma: scalar float32, their noise level.
        """
        rounded = self._rounded(x)
        velocity = self._velocity(rounded, sigma).to(x.device)
        return rounded.to(x) - sigma * velocity

    def time_inputs(self, sigmas: Tensor) -> Iterator[dict[str, Tensor]]:
        """What the model is told of each noise level [steps] and branch, besides latents: for one sample."""
        for text in (self._positive, self._negative or {}):
            for sigma in sigmas if text else ():
                yield {**self._levels(sigma, 1), "pooled_projections": text["pooled_projections"]}

    def _levels(self, sigma: Tensor, samples: int) -> dict[str, Tensor]:
        per_sample = torch.ones(samples)
        return {
            "timestep": self._rounded(sigma * 1000 * per_sample),
            "guidance": self._rounded(self._guidance.distilled * 1000 * per_sample),
        }

    def _velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        noisy = {"hidden_states": x, **self._levels(sigma, x.shape[0]), "rope_factor": self._rope.at(sigma)}
        positive = self._transformer(**noisy, **self._positive)
        if self._guidance.real_cfg == 1 or self._negative is None:
            return positive
        negative = self._transformer(**noisy, **self._negative)
        return guide(positive, negative, self._guidance.real_cfg, self._guidance.rescale)

    def _text(self, text: TextInput) -> dict[str, Tensor]:
        return {
            "encoder_hidden_states": self._rounded(text.tokens),
            "encoder_attention_mask": self._rounded(text.mask),
            "pooled_projections": self._rounded(text.pooled),
        }

    def _rounded(self, value: Any) -> Any:
        """A tensor on the model's device, in its dtype when it is of floats; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        return value.to(self._device, self._dtype if value.is_floating_point() else value.dtype)
