"""The average of the weights (EMA): what it is, that the file holds it, and that going on ends in the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from diffusers_helper.errors import UnusableInput
from diffusers_helper.training import loop

from .test_loop import SHORT, begun, same, weights

AVERAGED = replace(SHORT, steps=5, ema_decay=0.15)


def test_it_is_an_exponential_moving_average_and_the_training_is_what_it_was() -> None:
    """Its decay is (1 + n) / (10 + n) at first and never above what is asked for."""
    learning, plain = begun(AVERAGED), begun(replace(AVERAGED, ema_decay=0))
    expected: dict[str, Tensor] = {}
    for number, _ in enumerate(zip(learning.run(), plain.run(), strict=True)):
        assert same(weights(learning), weights(plain))
        decay = min((1 + number) / (10 + number), 0.15) if number else 0.0
        now = weights(plain)
        expected = {name: decay * expected.get(name, each) + (1 - decay) * each for name, each in now.items()}
    with learning.averaged():
        averages = weights(learning)
    assert same(weights(learning), weights(plain)), "afterwards they are again what they were"
    assert not same(averages, weights(learning))
    for name, each in averages.items():
        torch.testing.assert_close(each, expected[name], rtol=1e-5, atol=1e-7)
    with plain.averaged():
        assert same(weights(plain), weights(learning))


def test_going_on_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole, first, again = begun(AVERAGED), begun(AVERAGED), begun(AVERAGED)
    list(whole.run())
    steps = first.run()
    for _ in range(2):
        next(steps)
    first.save(tmp_path / "state.safetensors")
    again.load(tmp_path / "state.safetensors")
    list(again.run())
    assert same(weights(again), weights(whole))
    with whole.averaged(), again.averaged():
        assert same(weights(again), weights(whole))


def test_the_device_keeps_nothing_of_it_while_another_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors that are kept from step to step are moved, and moved back; no gradient is left."""
    learning = begun(AVERAGED)
    next(learning.run())
    moved: list[tuple[int, str]] = []
    monkeypatch.setattr(loop, "_move", lambda tensor, device: moved.append((id(tensor), device.type)))
    with learning.in_ram():
        there = [each for each, _ in moved]
        assert [each.grad for each in learning.network.parameters().values()] == [None] * len(weights(learning))
    assert [each for each, _ in moved[len(there) :]] == there
    learning.save(tmp_path / "s.safetensors")
    with safe_open(tmp_path / "s.safetensors", "pt") as file:
        kept = [name for name in file.keys() if name != "generator"]  # noqa: SIM118 - no mapping
    assert len(set(there)) == len(there) == len(kept)


def test_another_decay_is_refused(tmp_path: Path) -> None:
    begun(AVERAGED).save(tmp_path / "s.safetensors")
    with pytest.raises(UnusableInput, match=r"it was begun with ema-decay 0\.15; give the same"):
        begun(replace(AVERAGED, ema_decay=0)).load(tmp_path / "s.safetensors")
