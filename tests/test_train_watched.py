"""A training on the pocket that is looked at while it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusers_helper.engine import Engine
from diffusers_helper.events import Event, Learning, Validated
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.training.train import train
from diffusers_helper.training.training import Training
from diffusers_helper.training.validation import LEVELS, held_out

from .blue import blue_set, training

FAST = ("--steps", "3", "--guidance-scale", "10", "--learning-rate", "1e-3", "--network-args", "rank_dropout=0.3")


def run(made: Training, pocket: Path, tmp_path: Path) -> list[Event]:
    """Train with an engine of its own."""
    with Engine.load(find_checkpoint(str(pocket), tmp_path)) as loaded:
        return list(train(made, loaded))


def of_kind(events: list[Event], kind: type[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


def test_what_is_held_out_is_looked_at_and_changes_no_weight(tmp_path: Path, pocket: Path) -> None:
    """The same weights to the bit as from the other file alone."""
    both = blue_set(tmp_path / "both")
    files = sorted((tmp_path / "both" / "img").glob("*.png"))
    (aside,) = held_out(files, 0.5, seed=0)
    (left,) = {file.stem for file in files} - {aside.stem}
    alone = blue_set(tmp_path / "alone", [left])
    flags = ("--validation-split", "0.5", "--validate-every-n-steps", "2")
    watched = run(training(both, *FAST, *flags, "--out", str(tmp_path / "both.safetensors")), pocket, tmp_path)
    plain = run(training(alone, *FAST, "--out", str(tmp_path / "alone.safetensors")), pocket, tmp_path)
    looks = [event for event in watched if isinstance(event, Validated)]
    assert [event.step for event in looks] == [0, 2, 3]
    assert [event.loss is None for event in looks] == [True, False, False]
    assert all(event.levels == list(LEVELS) and len(event.losses) == len(LEVELS) for event in looks)
    assert looks[0].validation_loss == pytest.approx(sum(looks[0].losses) / len(LEVELS))
    assert looks[0].losses != looks[-1].losses
    assert not of_kind(plain, Validated)
    learnt: list[list[float]] = [
        [event.loss for event in events if isinstance(event, Learning)] for events in (watched, plain)
    ]
    assert learnt[0] == learnt[1]
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("both", "alone"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
