"""Which examples are learnt together, and that a batch is the mean of its losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.training.batches import Batches
from diffusers_helper.training.loop import Loop, LoopOptions
from diffusers_helper.training.network import Network, NetworkOptions

from ..parity import pack
from .test_loop import CPU, EXAMPLES, SHORT, begun, same, weights


def batched(options: LoopOptions, batches: Batches) -> Loop:
    torch.manual_seed(7)
    model = FramePackTransformer.from_pretrained(pack.PACK / "model").train()
    return Loop(model, Network(model, NetworkOptions(rank=2, alpha=2.0)), EXAMPLES, options, CPU, batches)


@given(
    some.lists(some.integers(0, 2), min_size=1, max_size=20), some.tuples(*[some.integers(1, 4)] * 3), some.randoms()
)
def test_all_come_once_and_each_batch_is_of_one_group(
    groups: list[int], sizes: tuple[int, ...], chance: object
) -> None:
    batches = Batches(tuple(groups), sizes)
    order = list(range(len(groups)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    made = batches.of(order)
    assert sorted(number for batch in made for number in batch) == sorted(order)
    assert len(made) == len(batches)
    for batch in made:
        assert len({groups[number] for number in batch}) == 1
        assert len(batch) <= sizes[groups[batch[0]]]


def test_a_batch_of_all_is_the_mean_of_its_losses() -> None:
    """The same numbers are drawn as for so many single ones whose gradients are one step."""
    together = batched(SHORT, Batches((0, 0, 0), (3,)))
    apart = begun(replace(SHORT, accumulate=3))
    losses = [[done.loss for done in loop.run()] for loop in (together, apart)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    one, other = weights(together), weights(apart)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_batches_of_one_change_nothing() -> None:
    single, plain = batched(SHORT, Batches((0, 1, 0), (1, 1))), begun(SHORT)
    for loop in (single, plain):
        list(loop.run())
    assert same(weights(single), weights(plain))


def test_epochs_are_counted_in_batches() -> None:
    loop = batched(replace(SHORT, accumulate=2), Batches((0, 0, 1), (2, 1)))
    assert [loop.epoch(step) for step in range(5)] == [0, 1, 2, 3, 4]
    assert [begun().epoch(step) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]
