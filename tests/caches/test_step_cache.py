"""What a step cache does to the numbers, and that its state is its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusers_helper.caches.step_cache import BlockPass, ResidualCache, StepCache, last
from diffusers_helper.caches.teacache import TeaCache, TeaCacheOption, estimated_change
from diffusers_helper.request import Request


class Scripted(TeaCache):
    """Computes as told."""

    def __init__(self, *decisions: bool) -> None:
        super().__init__(len(decisions), 0.15)
        self._decisions = decisions
        self.measures: list[float | None] = []

    def compute(self, measure: float | None) -> bool:
        self.measures = [*self.measures, measure]
        return self._decisions[len(self.measures) - 1]


class Blocks:
    """Three blocks, each of which adds one; counts what is asked of a pass over them. Two tokens are context's."""

    def __init__(self, value: float, targets: int = 2) -> None:
        self.tokens = torch.full((1, 2 + targets, 3), value)
        self.target = self.tokens[:, 2:]
        self.run_blocks = self.modulations = 0

    def __call__(self) -> BlockPass:
        return BlockPass(self.tokens, self.target.shape[1], self._modulated, self._run)

    def _modulated(self) -> Tensor:
        self.modulations += 1
        return self.tokens + 1

    def _run(self) -> Iterator[Tensor]:
        for number in range(1, 4):
            self.run_blocks += 1
            yield self.tokens + number


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
    assert cache.measures == [None, 1.0, 0.5]


class Alternating(ResidualCache):
    """Every second step, and remembers what it was told."""

    learnt: tuple[float, ...] = ()

    def decide(self, blocks: BlockPass) -> bool:
        return len(self.computed) % 2 == 0

    def learn(self, residual: Tensor) -> None:
        self.learnt = (*self.learnt, float(residual.mean()))


def test_a_residual_of_another_shape_is_not_added() -> None:
    cache = Scripted(True, False, False)
    cache(Blocks(0.0)())
    larger = Blocks(1.0, targets=5)
    assert torch.equal(cache(larger()), larger.target + 3)
    assert (larger.run_blocks, cache.computed) == (3, [True, True])


def test_what_a_cache_does_not_ask_for_is_not_computed() -> None:
    cache, passes = Alternating(), [Blocks(float(value)) for value in range(4)]
    for blocks in passes:
        cache(blocks())
    assert [(blocks.run_blocks, blocks.modulations) for blocks in passes] == [(3, 0), (0, 0), (3, 0), (0, 0)]


def test_a_cache_is_told_the_residual_of_every_step_that_ran_the_blocks() -> None:
    cache = Alternating()
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
    straight, tried = TeaCache(6, 0.15), TeaCache(6, 0.15)
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
    return asked.step_cache.make(asked.steps)


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
    kept = [value for value in vars(cache).values() if isinstance(value, Tensor)]
    streams = [blocks.tokens.shape] * TeaCacheOption.stream_tensors
    assert [value.shape for value in kept] == [blocks.target.shape] * TeaCacheOption.target_tensors + streams


def test_an_unchanged_input_is_still_recomputed_every_second_step() -> None:
    policy = TeaCache(steps=7, threshold=0.15)
    assert [policy.compute(m) for m in (None, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)] == [
        True,
        False,
        True,
        False,
        True,
        False,
        True,
    ]
    assert estimated_change(0.0) > 0.15 / 2


def test_one_and_two_steps_are_always_computed() -> None:
    assert TeaCache(1, 0.15).compute(None)
    two = TeaCache(2, 1.0)
    assert [two.compute(None), two.compute(0.0)] == [True, True]


def test_threshold_zero_reuses_nothing() -> None:
    policy = TeaCache(25, 0.0)
    assert all(policy.compute(None if step == 0 else 0.03) for step in range(25))
