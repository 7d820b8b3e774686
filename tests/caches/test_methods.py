"""What every method decides on a model is its own: nothing leaks from guidance, an abort, another size or a retry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_helper.caches.step_cache import ResidualCache, ResidualOption, Rule
from diffusers_helper.caches.table import MEASURABLE
from diffusers_helper.memory.costs import Cached
from diffusers_helper.planning import workload_of
from diffusers_helper.request import Request

from ..parity import pack
from .methods import MEASURED, METHODS, STEPS, denoiser, mask, option, pattern_of, run
from .support import Blocks, sigmas

each = pytest.mark.parametrize("method", METHODS)
each_way = pytest.mark.parametrize("forecast", [False, True])


@pytest.fixture(scope="module")
def patterns() -> dict[str, str]:
    return {method: pattern_of(method) for method in METHODS}


def test_every_method_is_here(patterns: dict[str, str]) -> None:
    assert set(METHODS) == set(MEASURABLE)
    assert len(set(patterns.values())) == len(METHODS), "each decides in its own way"
    assert all(2 <= pattern.count(".") <= STEPS - 3 for pattern in patterns.values())
    assert all(pattern[0] == pattern[-1] == "C" for pattern in patterns.values())


@each
def test_with_real_cfg_each_branch_decides_as_if_alone(method: str, patterns: dict[str, str]) -> None:
    made = denoiser(pack.transformer(), method, real_cfg=2.5)
    run(made)
    assert mask(made, 0) == mask(made, 1) == patterns[method]


@each
def test_after_an_abort_in_the_middle_a_section_begins_anew(method: str, patterns: dict[str, str]) -> None:
    run(denoiser(pack.transformer(), method), steps=5)
    again = denoiser(pack.transformer(), method)
    result = run(again)
    assert mask(again) == patterns[method]
    assert torch.equal(result, run(denoiser(pack.transformer(), method)))


@each
def test_after_another_size_or_number_of_steps_too(method: str, patterns: dict[str, str]) -> None:
    others = [pattern_of(method, rows=2), pattern_of(method, steps=7)]
    assert [len(other) for other in others] == [STEPS, 7]
    assert pattern_of(method) == patterns[method]
    assert [pattern_of(method, rows=2), pattern_of(method, steps=7)] == others


@each
@each_way
def test_a_step_that_is_tried_again_changes_nothing(method: str, forecast: bool) -> None:
    fields = {f"{method}_forecast": forecast}
    straight, tried = (denoiser(pack.transformer(), method, **fields) for _ in range(2))
    assert torch.equal(run(replace(tried, attempt=twice)), run(straight))
    assert mask(tried) == mask(straight)


def test_a_calibration_whose_steps_are_tried_again_measures_the_same() -> None:
    straight, tried = (denoiser(pack.transformer(), "magcache", magcache_calibration=True) for _ in range(2))
    run(straight)
    run(replace(tried, attempt=twice))
    assert tried.ratios == straight.ratios
    assert len(straight.ratios) == STEPS
    assert straight.ratios[0] == 1


def twice(work: Callable[[], Tensor]) -> Tensor:
    work()
    return work()


@each
def test_without_reuse_not_one_bit_differs_from_no_cache(method: str) -> None:
    made = denoiser(pack.transformer(), method, **{f"{method}_threshold": 0.0})
    assert torch.equal(run(made), run(denoiser(pack.transformer(), "off")))
    assert mask(made) == "C" * STEPS


@each
def test_a_forecast_changes_what_is_reused_and_not_which_steps(method: str, patterns: dict[str, str]) -> None:
    """Of methods that look at what it gave, the first reused steps are the same."""
    held, forecast = (denoiser(pack.transformer(), method, **{f"{method}_forecast": on}) for on in (False, True))
    assert not torch.equal(run(held), run(forecast))
    second = patterns[method].index("C", 1) + 1
    assert mask(forecast)[:second] == patterns[method][:second]


@each
@each_way
def test_a_cache_keeps_as_many_tensors_as_the_memory_plan_counts(method: str, forecast: bool) -> None:
    asked = option(method, forecast=forecast)
    cache, blocks = asked.make(sigmas(9), MEASURED), Blocks(1.0)
    most = 0
    for number in (0, 1, 2, 3, 4, 4, 4):
        cache(Blocks(2.0**number, adds=2.0**number)())
        most = max(most, _kept(vars(cache)))
    assert sum(cache.computed) >= 2
    streams, targets = asked.stream_tensors * blocks.tokens.numel(), asked.target_tensors * blocks.target.numel()
    noisy = 2 * blocks.target.numel()  # latents, which are a small part of a token at full size
    assert streams + targets <= most <= streams + targets + noisy
    request = Request.parse({"picture": "-", **METHODS[method], f"{method}_forecast": forecast, "real_cfg": 2.0})
    counted = workload_of(request, 64, 64, MEASURED).cached
    assert counted == Cached(2 * asked.stream_tensors, 2 * asked.target_tensors)


def _kept(value: object) -> int:
    """Numbers in all tensors that a cache knows, each counted once."""
    found: dict[int, int] = {}

    def look(value: object) -> None:
        if isinstance(value, Tensor):
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes() // value.element_size()
        elif isinstance(value, dict):
            look(tuple(value.values()))
        elif isinstance(value, (tuple, list)):
            for part in value:
                look(part)

    look(value)
    return sum(found.values())


class Always(ResidualCache):
    """Reuses all that it may."""

    def estimate(self, blocks: Any) -> float:
        return 0.0


def test_a_forecast_is_the_line_through_the_last_two_residuals() -> None:
    """The blocks add 1, then 2; at 0.4 the line has 2 + (2 - 1) (0.7 - 0.4) / (1 - 0.7) = 3."""
    cache = Always(Rule((1.0, 0.7, 0.4, 0.1), 0.5, first=2, forecast=True))
    for adds in (1.0, 2.0):
        cache(Blocks(adds=adds)())
    blocks = Blocks(5.0)
    torch.testing.assert_close(cache(blocks()), blocks.target + 3.0)
    assert (blocks.run_blocks, cache.computed) == (0, [True, True, False])


def test_a_forecast_from_one_computed_step_is_its_residual() -> None:
    cache = Always(Rule((1.0, 0.7, 0.4), 0.5, forecast=True))
    cache(Blocks(adds=1.0)())
    blocks = Blocks(5.0)
    assert torch.equal(cache(blocks()), blocks.target + 1.0)


def test_no_more_in_a_row_than_the_rule_allows() -> None:
    cache = Always(Rule(sigmas(10), 0.5, in_a_row=2))
    for _ in range(10):
        cache(Blocks()())
    assert cache.computed == [True, False, False] * 3 + [True]


def test_every_residual_option_can_forecast() -> None:
    assert all(issubclass(made, ResidualOption) for made in MEASURABLE.values())
