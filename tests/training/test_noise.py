"""Noise levels: each way to draw them against its formula, bounds, and how losses count."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.training.noise import NoiseLevels, noisy, shifted

COUNT = 20_000


def drawn(**options: Any) -> torch.Tensor:
    return NoiseLevels(**options).draw(COUNT, torch.Generator().manual_seed(1))


def normal() -> torch.Tensor:
    return torch.randn(COUNT, generator=torch.Generator().manual_seed(1))


def test_each_sampling_is_its_formula() -> None:
    uniform = torch.rand(COUNT, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn(sampling="uniform"), uniform)
    assert torch.allclose(drawn(sampling="sigmoid", sigmoid_scale=2.0), 1 / (1 + torch.exp(-2 * normal())))
    u = 1 / (1 + torch.exp(-normal()))
    assert torch.allclose(drawn(sampling="shift", shift=6.0), 6 * u / (1 + 5 * u))
    log_snr = 0.5 + 2 * normal()
    assert torch.allclose(drawn(sampling="logsnr", logit_mean=0.5, logit_std=2.0), 1 / (1 + torch.exp(log_snr / 2)))
    levels = shifted(torch.linspace(1, 0.001, 1000), 3.0)
    assert torch.equal(drawn(sampling="sigma"), levels[(uniform * 1000).long()])


def test_densities_of_the_sampler_s_levels() -> None:
    plain = drawn(sampling="sigma", shift=1.0)
    centred = drawn(sampling="sigma", shift=1.0, weighting="logit_normal")
    mode = drawn(sampling="sigma", shift=1.0, weighting="mode")
    assert abs(plain.mean() - 0.5) < 0.01
    assert centred.std() < plain.std()
    assert mode.std() < plain.std()
    assert not torch.equal(mode, drawn(sampling="sigma", shift=1.0, weighting="mode", mode_scale=0.5))


@pytest.mark.parametrize("sampling", ["uniform", "sigmoid", "shift", "sigma", "logsnr"])
def test_bounds_hold_and_keep_the_shape_where_that_is_wished(sampling: Any) -> None:
    options = {"sampling": sampling, "least": 400, "most": 600}
    squeezed, cut, free = drawn(**options), drawn(**options, keep_shape=True), drawn(sampling=sampling)
    for levels in (squeezed, cut):
        assert levels.min() >= 0.4
        assert levels.max() <= 0.6
    assert torch.allclose(squeezed, 0.4 + 0.2 * free)
    inside = free[(free >= 0.4) & (free <= 0.6)]
    assert abs(cut.mean() - inside.mean()) < 0.01


def test_bounds_without_a_level_end_in_words() -> None:
    with pytest.raises(InvalidRequest, match="hardly a noise level lies from 0 to 2; widen it"):
        NoiseLevels(sampling="sigma", keep_shape=True, most=2).draw(4, torch.Generator().manual_seed(0))


def test_how_losses_count() -> None:
    sigmas = torch.tensor([0.25, 0.5, 1.0])
    assert NoiseLevels().weights(sigmas).tolist() == [1, 1, 1]
    assert NoiseLevels(weighting="sigma_sqrt").weights(sigmas).tolist() == [16, 4, 1]
    cosmap = [2 / (math.pi * (1 - 2 * s + 2 * s**2)) for s in sigmas.tolist()]
    assert NoiseLevels(weighting="cosmap").weights(sigmas).tolist() == pytest.approx(cosmap)
    assert NoiseLevels(weighting="mode").weights(sigmas).tolist() == [1, 1, 1]


def test_noise_is_mixed_in_by_the_level_of_each_sample() -> None:
    latents, noise = torch.ones(3, 1, 1, 1, 1), torch.full((3, 1, 1, 1, 1), -1.0)
    assert noisy(latents, noise, torch.tensor([0.0, 0.5, 1.0])).flatten().tolist() == [1, 0, -1]


def test_the_seed_decides() -> None:
    levels = NoiseLevels()
    one, same, other = (levels.draw(5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert replace(levels, shift=1.0) != levels
