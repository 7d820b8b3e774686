"""MagCache: the steps that it skips are those of the published tables, and what it measures is what it asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from diffusers_helper.caches.magcache import MagCacheOption, for_steps, magnitude_ratio, read_ratios
from diffusers_helper.caches.step_cache import Measured, StepCache
from diffusers_helper.models.about import describe_large

from .support import Blocks, pattern, sigmas

FRAMEPACK = (
    1.0, 1.26562, 1.23438, 1.03125, 1.02344, 1.03906, 1.01562, 1.03906, 1.05469, 1.02344, 1.03906, 0.99609, 1.03125,
    1.02344, 1.01562, 1.02344, 1.00781, 1.04688, 0.98828, 1.0, 1.00781, 0.98828, 0.94141, 0.94141, 0.78906,
)  # fmt: skip
F1 = (
    1.0, 1.25781, 1.08594, 1.02344, 1.00781, 1.02344, 1.00781, 1.02344, 1.05469, 0.99609, 1.03906, 1.00781, 1.01562,
    1.00781, 1.02344, 1.01562, 0.98047, 1.05469, 0.98047, 0.96875, 1.03125, 0.97266, 0.9375, 0.96484, 0.78516,
)  # fmt: skip
"""Of 25 steps, as the authors of MagCache have published them."""


def magcache(
    ratios: Sequence[float], threshold: float, k: int, retention_ratio: float = 0.2, gate: float = 0.0
) -> StepCache:
    option = MagCacheOption(threshold=threshold, k=k, retention_ratio=retention_ratio, gate=gate)
    return option.make(sigmas(len(ratios)), Measured(ratios=(tuple(ratios),)))


@pytest.mark.parametrize(
    ("ratios", "threshold", "k", "gate", "expected"),
    [
        (FRAMEPACK, 0.10, 3, 0.0, "CCCCC..C.C..C..C..C...C.C"),
        (FRAMEPACK, 0.15, 4, 0.0, "CCCCC..C..C...C...C....CC"),
        (FRAMEPACK, 0.24, 6, 0.0, "CCCCC...C....C....C.....C"),
        (FRAMEPACK, 0.24, 6, 0.06, "CCCCC...C....C....C.....C"),
        (F1, 0.10, 3, 0.0, "CCCCC..C.C..C...C...C.C.C"),
        (F1, 0.15, 4, 0.0, "CCCCC...C....C...C....C.C"),
        (F1, 0.24, 6, 0.0, "CCCCC....C....C......C..C"),
        (F1, 0.24, 6, 0.06, "CCCCC....C....C......CC.C"),
    ],
)
def test_the_steps_it_computes_are_the_published_ones(
    ratios: tuple[float, ...], threshold: float, k: int, gate: float, expected: str
) -> None:
    assert pattern(magcache(ratios, threshold, k, 0.2, gate), 25) == expected


def test_a_skipped_step_runs_no_block_and_looks_at_none() -> None:
    cache, passes = magcache(FRAMEPACK, 0.24, 6), [Blocks() for _ in FRAMEPACK]
    for blocks in passes:
        assert torch.equal(cache(blocks()), blocks.target + 3)
    assert "".join("C" if blocks.run_blocks else "." for blocks in passes) == "CCCCC...C....C....C.....C"
    assert {blocks.run_blocks for blocks in passes} == {0, 3}
    assert not any(blocks.modulations for blocks in passes)
    assert cache.computed == [blocks.run_blocks == 3 for blocks in passes]


@pytest.mark.parametrize(("threshold", "k"), [(0.0, 6), (0.24, 0)])
def test_without_threshold_or_k_every_step_is_computed(threshold: float, k: int) -> None:
    """Also step 19, whose ratio is exactly 1."""
    assert pattern(magcache(FRAMEPACK, threshold, k), 25) == "C" * 25


@pytest.mark.parametrize(
    ("retention_ratio", "expected"), [(0.0, "C........C"), (0.55, "CCCCC....C"), (1.0, "CCCCCCCCCC")]
)
def test_the_first_steps_are_retained_and_the_last_is_computed(retention_ratio: float, expected: str) -> None:
    assert pattern(magcache([1.0] * 10, 0.5, 100, retention_ratio), 10) == expected


@pytest.mark.parametrize("steps", [1, 2])
def test_one_and_two_steps_are_computed(steps: int) -> None:
    option = MagCacheOption(threshold=1.0, k=100, retention_ratio=0.0)
    assert pattern(option.make(sigmas(steps), Measured(ratios=(F1,))), steps) == "C" * steps


def test_a_step_is_tried_again_with_the_sums_as_they_were() -> None:
    straight, tried = magcache(F1, 0.15, 4), magcache(F1, 0.15, 4)
    for _ in F1:
        straight(Blocks()())
        restore = tried.state()
        tried(Blocks()())
        restore()
        tried(Blocks()())
    assert tried.computed == straight.computed


def test_what_is_recorded_are_the_ratios_and_nothing_is_skipped() -> None:
    recorder = MagCacheOption(calibration=True, threshold=1.0).make(sigmas(4), Measured())
    for length in (1.0, 2.0, 3.0, 1.5):
        recorder(Blocks(adds=length)())
    assert recorder.computed == [True] * 4
    assert recorder.ratios == pytest.approx((1.0, 2.0, 1.5, 0.5))


def test_a_ratio_is_the_mean_over_tokens_of_the_quotient_of_lengths() -> None:
    before = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    assert magnitude_ratio(torch.tensor([[[6.0, 8.0], [0.0, 1.0]]]), before) == pytest.approx((2 + 0.5) / 2)
    assert math.isfinite(magnitude_ratio(before, torch.zeros_like(before)))


def test_another_number_of_steps_takes_the_nearest_ratios() -> None:
    assert for_steps(range(25), 10) == (0, 3, 5, 8, 11, 13, 16, 19, 21, 24)
    assert for_steps(FRAMEPACK, 25) == FRAMEPACK
    assert for_steps(FRAMEPACK, 1) == FRAMEPACK[-1:]
    assert len(for_steps(FRAMEPACK, 100)) == 100


@pytest.mark.parametrize("text", ["", " ", "0", "0.0", "[]"])
def test_an_empty_list_stands_for_the_checkpoints_own(text: str) -> None:
    assert read_ratios(text) == ()


def test_a_list_is_read_as_it_was_printed() -> None:
    assert read_ratios(", ".join(f"{ratio:.5f}" for ratio in F1)) == F1


@pytest.mark.parametrize(
    ("text", "place"),
    [("1.0,x,1", "number 2, 'x'"), ("1,nan", "number 2, 'nan'"), ("1,1,-0.5", "number 3"), ("1,,1", "number 2, ''"),
     ("inf", "number 1"), ("1,0,1", "number 2, '0'")],
)  # fmt: skip
def test_what_is_no_ratio_is_refused_with_its_place(text: str, place: str) -> None:
    with pytest.raises(ValueError, match=place):
        read_ratios(text)


def test_a_list_in_brackets_is_one_too() -> None:
    assert read_ratios("[1.0, 0.5]") == (1.0, 0.5)


@pytest.mark.parametrize(("name", "ratios"), [("framepack", FRAMEPACK), ("framepack-f1", F1)])
def test_the_large_checkpoints_have_the_published_lists(name: str, ratios: tuple[float, ...]) -> None:
    assert describe_large(name).measured.ratios == (ratios,)
