"""How much each file counts: the rules, against direct formulas."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from diffusers_helper.errors import UnusableInput
from diffusers_helper.lora.shares import Profile, gamma_of, shares


def test_one_beta_for_all_unless_there_is_a_second() -> None:
    assert Profile().betas(4) == (0.95, 0.95, 0.95)
    assert Profile(0.9).betas(2) == Profile(0.9, 0.5).betas(2) == (0.9,)


def test_from_beta_to_beta2_in_equal_steps() -> None:
    assert Profile(0.9, 0.5).betas(6) == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])


@pytest.mark.parametrize("sigma_rel", [0.001, 0.05, 0.1, 0.15, 0.2, 0.25, 0.2886, 0.2888, 0.29, 0.3])
def test_the_exponent_is_that_of_the_papers_algorithm(sigma_rel: float) -> None:
    t = sigma_rel**-2
    assert gamma_of(sigma_rel) == pytest.approx(np.roots([1, 7, 16 - t, 12 - t]).real.max(), rel=1e-7, abs=1e-9)


def test_beyond_the_widest_function_there_is_no_exponent() -> None:
    """The roots that the algorithm would take are not real there."""
    for sigma_rel, is_real in ((0.3, True), (0.301, False)):
        t = sigma_rel**-2
        largest = max(np.roots([1, 7, 16 - t, 12 - t]), key=lambda root: root.real)
        assert (abs(largest.imag) < 1e-9) == is_real


def test_a_power_function_weighs_the_files_by_their_times() -> None:
    """The share of file t is that of its stretch of t^gamma, from t - 1 to t; the oldest begins at 0."""
    assert Profile(sigma_rel=0.2).betas(7) == pytest.approx([0, 0.1410, 0.3179, 0.4435, 0.5322, 0.5973], abs=1e-4)
    exponent = gamma_of(0.2) + 1
    ends = [(time / 6) ** exponent for time in range(7)]
    stretches = [after - before for before, after in pairwise(ends)]
    assert shares(Profile(sigma_rel=0.2).betas(7)) == pytest.approx([0, *stretches])


@pytest.mark.parametrize(
    "profile", [Profile(0.9), Profile(0.9, 0.3), Profile(0.0), Profile(1.0), Profile(sigma_rel=0.25)]
)
@pytest.mark.parametrize("files", [1, 2, 5, 100])
def test_shares_are_the_average_of_as_many_numbers(profile: Profile, files: int) -> None:
    betas = profile.betas(files)
    found = shares(betas)
    assert len(found) == files
    assert min(found) >= 0
    assert math.fsum(found) == pytest.approx(1)
    values = np.random.default_rng(0).normal(size=files)
    mean = values[0]
    for value, beta in zip(values[1:], betas, strict=True):
        mean = beta * mean + (1 - beta) * value
    assert float(values @ np.array(found)) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"beta": 1.5}, "beta: 1.5 is not allowed; give a number from 0 to 1"),
        ({"beta": -0.1}, "beta: -0.1"),
        ({"beta": float("nan")}, "beta: nan"),
        ({"beta2": 2.0}, "beta2: 2 is"),
        ({"sigma_rel": 0.0}, "sigma_rel: 0 is not allowed; give a number from 0.001 to 0.3"),
        ({"sigma_rel": -0.2}, "sigma_rel: -0.2"),
        ({"sigma_rel": 0.5}, "There is no wider power function"),
        ({"sigma_rel": float("inf")}, "sigma_rel: inf"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_reason(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UnusableInput, match=words):
        Profile(**wrong)
