"""What a step cache does to the numbers, and that its state is its own."""

import torch
from torch import Tensor

from diffusers_helper.caches.step_cache import BlockCache
from diffusers_helper.caches.teacache import TeaCache, estimated_change


class Scripted:
    """Computes as told."""

    def __init__(self, *decisions: bool) -> None:
        self._decisions = list(decisions)
        self.measures: list[float | None] = []

    def compute(self, measure: float | None) -> bool:
        self.measures.append(measure)
        return self._decisions.pop(0)


class Blocks:
    """Adds one, and counts its calls."""

    def __init__(self, tokens: Tensor) -> None:
        self.calls = 0
        self._tokens = tokens

    def __call__(self) -> Tensor:
        self.calls += 1
        return self._tokens + 1


def test_a_reused_step_adds_the_last_residual_once_and_runs_no_block() -> None:
    cache = BlockCache(Scripted(True, False, False))
    first = torch.zeros(1, 2, 3)
    assert torch.equal(cache(first, first + 1, Blocks(first)), first + 1)
    for value in (5.0, 7.0):
        tokens = torch.full((1, 2, 3), value)
        blocks = Blocks(tokens)
        assert torch.equal(cache(tokens, tokens, blocks), tokens + 1)
        assert blocks.calls == 0
    assert cache.computed == [True, False, False]


def test_the_change_is_measured_against_the_step_before_also_after_a_reuse() -> None:
    policy = Scripted(True, False, True)
    cache = BlockCache(policy)
    for value in (1.0, 2.0, 3.0):
        tokens = torch.full((1, 2, 3), value)
        cache(tokens, tokens, Blocks(tokens))
    assert policy.measures == [None, 1.0, 0.5]


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
