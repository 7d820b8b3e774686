"""What the methods estimate, against the formulas; and what Auto stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_helper.caches.auto import STRENGTHS, UNMEASURED, AutoOption
from diffusers_helper.caches.easycache import EasyCache
from diffusers_helper.caches.first_block import FirstBlockCache
from diffusers_helper.caches.magcache import MagCacheOption
from diffusers_helper.caches.seacache import SeaCache, gains, spectral_filter
from diffusers_helper.caches.step_cache import Measured, ResidualCache, Rule
from diffusers_helper.caches.teacache import TeaCache, TeaCacheOption
from diffusers_helper.errors import InvalidRequest, UnusableCheckpoint
from diffusers_helper.models.about import read_description
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Recipe

from .support import Blocks, sigmas


def by_fourier(noisy: Tensor, sigma: float) -> Tensor:
    """The filter as the paper writes it, by a Fourier transform over frames, rows and columns."""
    axes = (-3, -2, -1)
    gain = torch.ones(1)
    for axis in axes:
        frequencies = torch.fft.fftfreq(noisy.shape[axis]).abs()
        power = 1 / (frequencies**3 + 1e-12)
        of_axis = (1 - sigma) * power / ((1 - sigma) ** 2 * power + sigma**2)
        shape = [1, 1, 1]
        shape[axis] = -1
        gain = gain * of_axis.reshape(shape)
    return torch.fft.ifftn(torch.fft.fftn(noisy, dim=axes) * (gain / gain.mean()), dim=axes).real


@pytest.mark.parametrize("sigma", [0.99, 0.7, 0.2])
def test_the_spectral_filter_is_the_papers(sigma: float) -> None:
    noisy = torch.randn(1, 2, 9, 8, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spectral_filter(noisy, sigma), by_fourier(noisy, sigma), rtol=1e-3, atol=1e-4)


def test_gains_have_the_mean_one_and_fall_with_the_frequency() -> None:
    found = gains(8, 0.9)
    assert sum(found) / 8 == pytest.approx(1)
    assert found[:5] == sorted(found[:5], reverse=True)
    assert found[5:] == pytest.approx(found[3:0:-1])
    assert all(gain > 0 for gain in (*gains(5, 1.0), *gains(5, 0.0)))


def errors(cache: ResidualCache, *passes: Blocks) -> list[float]:
    """What the cache estimates at each step."""
    found = []
    estimate = cache.estimate

    def watched(blocks: Any) -> float:
        found.append(estimate(blocks))
        return found[-1]

    cache.estimate = watched  # type: ignore[method-assign]
    for blocks in passes:
        cache(blocks())
    return found


def test_seacache_sums_up_the_relative_change_of_the_filtered_latents() -> None:
    """Latents that are alike everywhere pass the filter up to a factor of the noise level."""
    rule = Rule((0.5, 0.5, 0.5, 0.5, 0.1), 10.0)
    assert errors(SeaCache(rule), *(Blocks(value) for value in (2.0, 3.0, 4.5)))[1:] == pytest.approx([0.5, 1.0])


def test_easycache_takes_the_rate_between_the_last_computed_steps() -> None:
    """Outputs 3 and 5 of inputs 0 and 1: rate 2, and a change of 0.5 is 2 * 0.5 / 5, then 0.4 more."""
    rule = Rule(sigmas(9), 10.0, first=2)
    passes = [Blocks(0.0, adds=3.0), Blocks(1.0, adds=4.0), Blocks(1.5), Blocks(2.5)]
    assert errors(EasyCache(rule), *passes)[2:] == pytest.approx([0.2, 0.6])


def test_easycache_bears_an_output_of_zeros() -> None:
    cache = EasyCache(Rule(sigmas(9), 0.1))
    for value in (0.0, 0.0, 1.0, 2.0):
        cache(Blocks(value, adds=-value)())
    assert cache.computed == [True, True, False, False]


def test_first_block_cache_compares_with_the_last_computed_step() -> None:
    """The first block adds a third of 3, 3.3 and 3.6; nothing is summed up."""
    rule = Rule(sigmas(9), 10.0)
    passes = [Blocks(0.0, adds=adds) for adds in (3.0, 3.3, 3.6)]
    assert errors(FirstBlockCache(rule), *passes)[1:] == pytest.approx([0.1, 0.2])
    assert [blocks.run_blocks for blocks in passes] == [3, 1, 1]


MEASURED = Measured(ratios=((1.0, 0.9),), best={"fast": MagCacheOption(k=2), "quality": TeaCacheOption(threshold=0.05)})


def test_auto_is_what_was_measured_best_and_else_what_the_original_does() -> None:
    stands_for = {strength: AutoOption(strength=strength).meant(MEASURED) for strength in STRENGTHS}  # type: ignore[arg-type]
    assert stands_for == {**MEASURED.best, "balanced": UNMEASURED["balanced"]}
    assert UNMEASURED["balanced"] == TeaCacheOption(threshold=0.15)
    assert [AutoOption(strength=strength).meant(Measured()) for strength in STRENGTHS] == [  # type: ignore[arg-type]
        UNMEASURED[strength] for strength in STRENGTHS
    ]
    made = AutoOption(strength="quality").make(sigmas(4), MEASURED)
    assert isinstance(made, TeaCache)
    assert made.rule.threshold == 0.05


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (TeaCacheOption(threshold=0.2), ["Step cache: TeaCache, threshold 0.2."]),
        (TeaCacheOption(forecast=True), ["Step cache: TeaCache with a forecast, threshold 0.15."]),
        (MagCacheOption(), ["Step cache: MagCache, threshold 0.24.", "MagCache's ratios were measured with 2 steps"]),
    ],
)
def test_auto_says_what_it_stands_for(option: Any, told: list[str]) -> None:
    measured = Measured(ratios=((1.0, 0.9),), best={"fast": option})
    found = [str(remark) for remark in AutoOption(strength="fast").remarks(measured, 9)]
    assert len(found) == len(told)
    assert all(mine.startswith(wanted) for mine, wanted in zip(found, told, strict=True))


def test_auto_lacks_what_its_option_lacks() -> None:
    without = Measured(best={"fast": MagCacheOption()})
    assert "knows no ratios" in str(AutoOption(strength="fast").lacks(without))
    assert AutoOption(strength="quality").lacks(without) is None


def test_the_pocket_has_measured_ratios_and_strengths() -> None:
    measured = find_checkpoint("pocket", Path("none")).measured()
    assert [len(ratios) for ratios in measured.ratios] == [25]
    assert set(measured.best) == set(STRENGTHS)


@pytest.mark.parametrize(
    ("step_caches", "reason"),
    [
        ({"best": {"name": "teacache"}}, "'best' is none of quality, balanced, fast"),
        ({"fast": {"name": "auto"}}, "one of its options"),
        ({"fast": {"name": "teacache", "threshold": 7}}, "threshold"),
        ({"fast": {"name": "magcache", "calibration": True}}, "a calibration is no step cache to choose"),
    ],
)
def test_strengths_that_make_no_sense_are_refused(step_caches: Mapping[str, Any], reason: str, tmp_path: Path) -> None:
    (tmp_path / "framepack.json").write_text(json.dumps({"step_caches": step_caches}))
    with pytest.raises(UnusableCheckpoint, match=reason):
        read_description(tmp_path / "framepack.json")


def test_an_unknown_strength_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="auto_strength: 'best' is not allowed"):
        Recipe.parse({"auto_strength": "best"})
