"""What a step cache does to the numbers, and that its state is its own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diffusers_helper.caches.step_cache import BlockPass, Measured, ResidualCache, Rule, StepCache, last
from diffusers_helper.caches.teacache import TeaCache, TeaCacheOption, estimated_change
from diffusers_helper.request import Request

from .support import Blocks, Told, decisions, sigmas


class Scripted(TeaCache):
    """Computes as told, but for the first and the last step; writes down what it measures."""

    def __init__(self, *decisions: bool) -> None:
        super().__init__(Rule(sigmas(len(decisions) + 1), 0.15))
        self._decisions = decisions
        self.measures: tuple[float, ...] = ()

    def estimate(self, blocks: BlockPass) -> float:
        self.measures = (*self.measures, self.measure(blocks))
        return math.inf if self._decisions[len(self.measures) - 1] else 0.0


def test_a_reused_step_adds_the_last_residual_once_and_runs_no_block() -> None:
    cache = Scripted(True, False, False)
    first = Blocks(0.0)
    assert torch.equal(cache(first()), first.target + 3)
    assert first.run_blocks == 3
    for value in (5.0, 7.0):
        blocks = Blocks(value)
        assert torch.equal(cache(blocks()), blocks.target + 3)
        assert blocks.run_blocks == 0
    assert cache.computed == [True, False, False]


def test_the_change_is_measured_against_the_step_before_also_after_a_reuse() -> None:
    cache = Scripted(True, False, True)
    for value in (0.0, 1.0, 2.0):
        cache(Blocks(value)())
    assert cache.measures == (0.0, 1.0, 0.5)


class Alternating(ResidualCache):
    """Every second step, and remembers what it was told."""

    learnt: tuple[float, ...] = ()

    def estimate(self, blocks: BlockPass) -> float:
        return float(len(self.computed) % 2 == 0)

    def learn(self, blocks: BlockPass, output: Tensor, residual: Tensor) -> None:
        self.learnt = (*self.learnt, float(residual.mean()))


def alternating() -> Alternating:
    return Alternating(Rule(sigmas(9), 0.5))


def test_a_residual_of_another_shape_is_not_added() -> None:
    cache = Scripted(True, False, False)
    cache(Blocks(0.0)())
    larger = Blocks(1.0, targets=5)
    assert torch.equal(cache(larger()), larger.target + 3)
    assert (larger.run_blocks, cache.computed) == (3, [True, True])


def test_what_a_cache_does_not_ask_for_is_not_computed() -> None:
    cache, passes = alternating(), [Blocks(float(value)) for value in range(4)]
    for blocks in passes:
        cache(blocks())
    assert [(blocks.run_blocks, blocks.modulations) for blocks in passes] == [(3, 0), (0, 0), (3, 0), (0, 0)]


def test_a_cache_is_told_the_residual_of_every_step_that_ran_the_blocks() -> None:
    cache = alternating()
    for value in range(4):
        cache(Blocks(float(value))())
    assert cache.learnt == (3.0, 3.0)


def test_a_pass_that_is_stopped_early_runs_no_more_blocks() -> None:
    blocks = Blocks(0.0)
    after = blocks().run()
    assert torch.equal(next(after), blocks.tokens + 1)
    assert blocks.run_blocks == 1
    assert torch.equal(last(after), blocks.tokens + 3)
    assert blocks.run_blocks == 3


def test_a_step_is_tried_again_with_the_cache_as_it_was() -> None:
    """As often as it must be: numbers, tensors, and what was computed."""
    values = (1.0, 1.4, 1.5, 2.9, 3.0, 3.1)
    straight, tried = TeaCache(Rule(sigmas(6), 0.15)), TeaCache(Rule(sigmas(6), 0.15))
    for value in values:
        wanted, restore = straight(Blocks(value)()), tried.state()
        for other in (value + 5, value + 9):
            tried(Blocks(other)())
            restore()
        assert torch.equal(tried(Blocks(value)()), wanted)
    assert tried.computed == straight.computed
    assert {True, False} == set(tried.computed)


def request(**fields: object) -> Request:
    return Request.parse({"picture": "-", "steps": 6, **fields})


def made(asked: Request) -> StepCache:
    assert asked.step_cache is not None
    return asked.step_cache.make(sigmas(asked.steps), Measured())


def test_a_cache_is_made_as_the_request_asks() -> None:
    assert request(step_cache="off").step_cache is None
    low, high = (made(request(teacache_threshold=threshold)) for threshold in (0.0, 1.0))
    for step in range(6):
        low(Blocks(10 + 0.1 * step)())
        high(Blocks(10 + 0.1 * step)())
    assert all(low.computed)
    assert high.computed == [True, False, False, False, False, True]


def test_a_cache_keeps_as_many_tensors_as_the_memory_plan_is_told() -> None:
    cache, blocks = made(request()), Blocks(1.0)
    for _ in range(3):
        cache(blocks())
    sizes = sorted(value.numel() for value in kept(vars(cache)))
    option = TeaCacheOption()
    assert sizes == sorted([blocks.target.numel()] * option.target_tensors + [blocks.tokens.numel()])


def kept(value: object) -> Iterator[Tensor]:
    """All tensors of the size of tokens in what a cache knows."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from kept(part)


def test_an_unchanged_input_is_still_recomputed_every_second_step() -> None:
    cache = Told(Rule(sigmas(7), 0.15), [0.0] * 7)
    assert decisions(cache, 7) == [True, False, True, False, True, False, True]
    assert estimated_change(0.0) > 0.15 / 2


def test_one_and_two_steps_are_always_computed() -> None:
    assert decisions(TeaCache(Rule(sigmas(1), 1.0)), 1) == [True]
    assert decisions(TeaCache(Rule(sigmas(2), 1.0)), 2) == [True, True]


def test_threshold_zero_reuses_nothing() -> None:
    assert all(decisions(Told(Rule(sigmas(25), 0.0), [0.03] * 25), 25))
