"""The bench of merging, small: its ways make the same weights, peft's among them, and measure something."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.lora_merge import SIZES, TOUCHED, _by_peft, _measure, _ours, _prepare


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    _prepare(folder, SIZES["dry"], rank=4)
    return folder


def test_merging_gives_what_peft_gives(place: Path) -> None:
    """But for the rounding to bfloat16: peft rounds the delta before it is added."""
    peft, plain = _by_peft(place), _ours(place, keep=False)
    kept = _ours(place, keep=True)
    assert kept.keys() == plain.keys() == peft.keys()
    for name, weight in kept.items():
        assert torch.equal(weight, plain[name])
        difference = (weight.double() - peft[name].double()).norm() / weight.double().norm()
        assert difference < 2**-8, name


def test_a_way_is_measured(place: Path) -> None:
    measured = _measure("kept", place)
    assert measured["changed"] > 0.01
    assert measured["seconds"] > 0
    assert TOUCHED in _ours(place, keep=False)
