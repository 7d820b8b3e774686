"""A training on the pocket that is looked at while it goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusers_helper.engine import Engine
from diffusers_helper.events import Event, Learning, Validated
from diffusers_helper.models.load import load_parts
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.training.train import train
from diffusers_helper.training.training import Training
from diffusers_helper.training.validation import LEVELS, held_out

from .blue import blue_set, training
from .memory.support import FLOAT32, SOME, changed_planner, moving, unchanged

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


def test_weights_that_move_are_looked_at_as_they_are(tmp_path: Path, pocket: Path) -> None:
    """By a plan as of a GPU, whose blocks pass through, the loss held out and the average are the same to the bit."""
    data_sets, found = blue_set(tmp_path / "data"), []
    flags = (
        "--validation-split",
        "0.5",
        "--ema-decay",
        "0.9",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "x.safetensors"),
    )
    checkpoint = find_checkpoint(str(pocket), tmp_path)
    for change in (unchanged, moving("swapped", "swapped", **SOME, stored="again")):
        parts, planner = load_parts(checkpoint, FLOAT32), changed_planner(checkpoint, FLOAT32, change)
        with Engine(checkpoint, FLOAT32, parts, planner) as engine:
            events = list(train(training(data_sets, *FAST, *flags), engine))
        looks = [event.losses for event in events if isinstance(event, Validated)]
        found.append((looks, load_file(tmp_path / "x.safetensors")))
    (still, kept), (moved, passed) = found
    assert len(still) == 2
    assert still == moved
    assert all(torch.equal(each, passed[name]) for name, each in kept.items())


def test_a_training_is_logged_as_it_is_told(tmp_path: Path, pocket: Path) -> None:
    """TensorBoard's own reader finds in the run's folder what the events say, in single precision."""
    pytest.importorskip("tensorboard", reason="an optional package")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data_sets, logs = blue_set(tmp_path / "data"), tmp_path / "logs"
    flags = ("--validation-split", "0.5", "--logging-dir", str(logs), "--log-prefix", "blue_", "--steps", "2")
    told = run(training(data_sets, *FAST, *flags, "--out", str(tmp_path / "a.safetensors")), pocket, tmp_path)
    (folder,) = logs.iterdir()
    assert re.fullmatch(r"blue_\d{14}", folder.name)
    reader = EventAccumulator(str(folder / "network_train"))
    reader.Reload()
    learnt = {event.step: event for event in told if isinstance(event, Learning)}
    looks = {event.step: event.validation_loss for event in told if isinstance(event, Validated)}
    assert scalars(reader, "loss/current") == pytest.approx({step: each.loss for step, each in learnt.items()})
    assert scalars(reader, "grad_norm") == pytest.approx({step: each.norm for step, each in learnt.items()})
    assert scalars(reader, "loss/validation") == pytest.approx(looks)
    assert set(looks) == {0, 2}
    assert all(seconds > 0 for seconds in scalars(reader, "seconds_per_step").values())
    written = "".join(file.read_text(encoding="utf-8") for file in folder.rglob("hparams.yml"))
    assert "ss_learning_rate: '0.001'" in written
    assert str(tmp_path) not in written


def scalars(reader: Any, name: str) -> dict[int, float]:
    """Of each step."""
    return {each.step: each.value for each in reader.Scalars(name)}
