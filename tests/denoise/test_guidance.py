"""Guidance on velocities, apart from the model."""

import torch

from diffusers_helper.denoise.denoiser import Denoiser, Guidance, TextInput
from diffusers_helper.denoise.guidance import guide


def test_scale_one_is_the_positive_velocity() -> None:
    positive, negative = torch.randn(2, 16, 3), torch.randn(2, 16, 3)
    torch.testing.assert_close(guide(positive, negative, 1.0, 0.0), positive)


def test_full_rescale_has_the_spread_of_the_positive_velocity() -> None:
    positive, negative = torch.randn(2, 16, 3), torch.randn(2, 16, 3)
    guided = guide(positive, negative, 7.0, 1.0)
    torch.testing.assert_close(guided.std(dim=(1, 2)), positive.std(dim=(1, 2)))


def test_the_negative_branch_is_not_evaluated_when_real_cfg_is_one() -> None:
    seen = []

    def transformer(**inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs["pooled_projections"].item())
        return torch.zeros_like(inputs["hidden_states"])

    def text(value: float) -> TextInput:
        return TextInput(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), torch.full((1, 1), value))

    for real_cfg in (1.0, 2.0):
        denoiser = Denoiser(transformer, {}, text(1), text(-1), Guidance(real_cfg=real_cfg), torch.float32)
        denoiser(torch.zeros(1, 16, 1, 2, 2), torch.tensor(0.5))
    assert seen == [1, 1, -1]
