"""Logs read back by TensorBoard's reader and out of W&B's own file; and what is refused before anything is loaded."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import InvalidRequest, OutputFailed
from diffusers_helper.events import Event, Learning, Notice, Validated
from diffusers_helper.training.order import TrainingOrder
from diffusers_helper.training.trackers import Log, LogOptions, check_packages

NOW = datetime(2026, 1, 2, 3, 4, 5)
EVENTS: list[Event] = [
    Validated(step=0, steps=2, loss=None, validation_loss=0.75, levels=[0.25, 0.5], losses=[1.0, 0.5]),
    Learning(step=1, steps=2, loss=0.5, smooth=0.5, rate=0.125, norm=2.0, seconds=4.0),
    Notice(message="is not logged"),
    Learning(step=2, steps=2, loss=0.25, smooth=0.375, rate=0.0625, norm=1.0, seconds=3.0),
]
LOGGED = {
    "loss/current": {1: 0.5, 2: 0.25},
    "loss/average": {1: 0.5, 2: 0.375},
    "lr": {1: 0.125, 2: 0.0625},
    "grad_norm": {1: 2.0, 2: 1.0},
    "seconds_per_step": {1: 4.0, 2: 3.0},
    "loss/validation": {0: 0.75},
    "validation/0.25": {0: 1.0},
    "validation/0.5": {0: 0.5},
}


def said() -> Iterator[Event]:
    yield from EVENTS


def logged(options: LogOptions) -> None:
    with Log(options, {"ss_seed": "3"}, NOW) as log:
        events: Any = said()
        assert list(log.following(events)) == EVENTS


def order(**named: Any) -> TrainingOrder:
    return TrainingOrder.parse({"data": "d", "out": "a.safetensors", **named})


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    """In a folder of the prefix and the time; hyperparameters stand beside."""
    pytest.importorskip("tensorboard", reason="an optional package")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged(LogOptions(tmp_path / "logs", "blue_", ("tensorboard",), "turns_blue"))
    (run,) = (tmp_path / "logs").iterdir()
    assert run.name == "blue_20260102030405"
    reader = EventAccumulator(str(run / "turns_blue"))
    reader.Reload()
    names = reader.Tags()["scalars"]
    assert {name: {each.step: each.value for each in reader.Scalars(name)} for name in names} == LOGGED
    (kept,) = (run / "turns_blue").rglob("hparams.yml")
    assert "ss_seed: '3'" in kept.read_text(encoding="utf-8")


def records(content: bytes) -> Iterator[bytes]:
    """Those of W&B's file, which is a log of LevelDB after seven bytes: blocks of 32 KiB; of each piece of a record a
    checksum, its length, and whether it is the whole (1), first (2), middle (3) or last one (4)."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def test_wandb_keeps_it_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="an optional package")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    logged(LogOptions(tmp_path, "", ("wandb",), "turns_blue", "first"))
    (file,) = tmp_path.rglob("*.wandb")
    found = [Record.FromString(each) for each in records(file.read_bytes())]
    runs = [record.run for record in found if record.HasField("run")]
    assert (runs[0].project, runs[0].display_name) == ("turns_blue", "first")
    rows = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    assert [(float(row["loss/current"]), float(row["lr"])) for row in rows if "lr" in row] == [
        (0.5, 0.125), (0.25, 0.0625),
    ]  # fmt: skip


def test_nothing_is_logged_unless_it_is_wished(tmp_path: Path) -> None:
    logged(LogOptions())
    assert list(tmp_path.iterdir()) == []


def test_what_is_logged_with() -> None:
    assert order().trackers == ()
    assert order(logging_dir="l").trackers == ("tensorboard",)
    assert order(logging_dir="l", log_with="all").trackers == ("tensorboard", "wandb")
    assert order(log_with="wandb").trackers == ("wandb",)
    for name in ("tensorboard", "all"):
        with pytest.raises(InvalidRequest, match=f"log_with: '{name}' is not allowed without a folder; give logging_"):
            order(log_with=name)
    for named in ({"log_prefix": "../x"}, {"log_tracker_name": "a/b"}, {"log_with": "paper"}):
        with pytest.raises(InvalidRequest):
            order(**named)


def test_a_missing_package_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    how = r"-m pip install wandb -c requirements-optional\.txt"
    with pytest.raises(InvalidRequest, match=f"log_with: wandb needs the package wandb, which is not installed.*{how}"):
        check_packages(LogOptions(trackers=("wandb",)))
    check_packages(LogOptions())


@pytest.mark.skipif(os.name != "posix", reason="a folder is protected by its mode")
def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputFailed, match="file"), Log(LogOptions(tmp_path / "file", "", ("tensorboard",)), {}, NOW):
        pass
