"""The files of a training on the pocket: which there are, what they say, and what is left when it is broken off."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusers_helper.engine import Engine
from diffusers_helper.errors import OutOfMemory
from diffusers_helper.events import Event, Failed, Learnt, Saved
from diffusers_helper.lora.header import read_header
from diffusers_helper.lora.said import said_in
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.training.loop import Done, Loop
from diffusers_helper.training.train import train
from diffusers_helper.training.training import SaveOptions

from . import program
from .blue import blue_set, training

FAST = ("--guidance-scale", "10", "--learning-rate", "1e-3")
SMALL = ("--network-dim", "1", "--network-args", "exclude_patterns=.*", r"include_patterns=.*\.0\.attn\.to_q")


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blue_set(tmp_path_factory.mktemp("learnt"))


def events(target: Path, data_sets: Path, pocket: Path, *flags: str) -> list[Event]:
    """Of a training to its end, by an engine of its own."""
    with Engine.load(find_checkpoint(str(pocket), target.parent)) as engine:
        return list(train(training(data_sets, *FAST, "--out", str(target), *flags), engine))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def same(one: Path, other: Path) -> bool:
    tensors = load_file(one), load_file(other)
    return tensors[0].keys() == tensors[1].keys() and all(
        torch.equal(each, tensors[1][name]) for name, each in tensors[0].items()
    )


def test_epochs_go_before_steps_and_old_files_go(tmp_path: Path, pocket: Path, data_sets: Path) -> None:
    """Two examples: an epoch is two steps. Of the files of epochs one stays, of those of steps what is a step old."""
    flags = ("--max-train-epochs", "3", "--steps", "99", "--save-every-n-epochs", "1", "--save-last-n-epochs", "1")
    more = ("--save-every-n-steps", "2", "--save-last-n-steps", "3", "--training-comment", "of my cat")
    told = events(tmp_path / "a.safetensors", data_sets, pocket, *flags, *more, *SMALL)
    assert isinstance(told[-1], Learnt)
    assert (told[-1].step, told[-1].steps) == (6, 6)
    saved = [Path(event.path).name for event in told if isinstance(event, Saved)]
    steps, epochs = ([f"a-{n:06}.safetensors" for n in (2, 4)], [f"a-epoch{n:06}.safetensors" for n in (1, 2)])
    assert saved == [steps[0], epochs[0], steps[1], epochs[1], "a.safetensors"]
    assert names(tmp_path) == {steps[0], steps[1], epochs[1], "a.safetensors", "a.state.safetensors"}
    metadata = read_header(tmp_path / "a.safetensors").metadata
    expected = {
        "ss_num_train_items": "2", "ss_num_batches_per_epoch": "2", "ss_num_epochs": "3", "ss_epoch": "3",
        "ss_steps": "6", "ss_max_train_steps": "6", "ss_training_comment": "of my cat", "ss_output_name": "a",
        "ss_optimizer": "AdamW", "ss_network_module": "networks.lora_framepack", "ss_learning_rate": "0.001",
        "modelspec.architecture": "framepack/lora", "modelspec.sai_model_spec": "1.0.0", "modelspec.title": "a",
        "modelspec.resolution": "128x128", "modelspec.timestep_range": "0,1000",
    }  # fmt: skip
    assert {name: metadata.get(name) for name in expected} == expected
    assert float(metadata["ss_training_started_at"]) < float(metadata["ss_training_finished_at"])
    assert re.fullmatch(r"\d{1,10}", metadata["ss_session_id"])
    half = read_header(tmp_path / steps[1]).metadata
    assert (half["ss_steps"], half["ss_epoch"], half["ss_session_id"]) == ("4", "2", metadata["ss_session_id"])
    assert re.fullmatch(r"[0-9a-f]{64}", metadata["sshs_model_hash"])
    assert re.fullmatch(r"[0-9a-f]{8}", metadata["sshs_legacy_hash"])
    assert half["sshs_model_hash"] != metadata["sshs_model_hash"]
    assert str(data_sets.parent) not in json.dumps(dict(metadata))


@pytest.mark.parametrize(
    ("options", "step", "epoch"),
    [
        (SaveOptions(every_steps=2, every_epochs=2), None, None),
        (SaveOptions(every_steps=2, every_epochs=2, last_steps=1, last_epochs=1), 6, 6),
        (SaveOptions(every_steps=2, every_epochs=2, last_steps=4, last_epochs=3), 2, 2),
        (SaveOptions(every_steps=2, every_epochs=2, last_steps=9, last_epochs=9), None, None),
    ],
)
def test_which_file_goes_when_the_eighth_is_there(options: SaveOptions, step: int | None, epoch: int | None) -> None:
    assert (options.old_step(8), options.old_epoch(8)) == (step, epoch)


def test_no_metadata_keeps_what_loading_needs(tmp_path: Path, pocket: Path, data_sets: Path) -> None:
    """The weights are the same. What the pages offer of a file is gone with it."""
    for name, flags in (("plain", ()), ("bare", ("--no-metadata",))):
        events(tmp_path / f"{name}.safetensors", data_sets, pocket, "--steps", "1", *SMALL, *flags)
    plain, bare = (read_header(tmp_path / f"{name}.safetensors").metadata for name in ("plain", "bare"))
    kept = {name for name in plain if name.startswith(("ss_network_", "ss_base_model_version", "sshs_"))}
    assert set(bare) == kept
    assert {name: bare[name] for name in kept - {"sshs_legacy_hash"}} == {
        name: plain[name] for name in kept - {"sshs_legacy_hash"}
    }
    assert said_in(plain).one_frame
    assert not said_in(bare).one_frame
    assert same(tmp_path / "plain.safetensors", tmp_path / "bare.safetensors")


def test_the_file_holds_the_average(tmp_path: Path, pocket: Path, data_sets: Path) -> None:
    """Of two steps with a decay of nearly nothing it is nearly the weights, with one of 0.18 it is not."""
    made = {}
    for name, flags in (("plain", ()), ("slow", ("--ema-decay", "0.9")), ("quick", ("--ema-decay", "1e-9"))):
        target = tmp_path / f"{name}.safetensors"
        told = events(target, data_sets, pocket, "--steps", "2", *SMALL, *flags)
        assert isinstance(told[-1], Learnt)
        made[name] = load_file(target)
    assert all(torch.allclose(each.float(), made["quick"][name].float()) for name, each in made["plain"].items())
    assert any(not torch.equal(each, made["slow"][name]) for name, each in made["plain"].items())


@pytest.mark.parametrize("wish", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_process_that_was_ended_goes_on_to_the_same_weights(
    wish: signal.Signals, tmp_path: Path, pocket: Path, data_sets: Path
) -> None:
    """Of a killed one the state is that of the last saved file; Ctrl-C writes the LoRA too."""
    flags = ("--steps", "6", "--save-every-n-steps", "1", "--network-args", "rank_dropout=0.3", "--ema-decay", "0.9")
    given = ("train", "--data", str(data_sets), "--checkpoint", str(pocket), "--json", *FAST, *flags)
    killed, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    process = program.Program(program.MODULE, (*given, "--out", str(killed)), tmp_path, program.environment(tmp_path))
    for event in program.events(process):
        if event["event"] == "saved" and event["step"] == 3:
            process.send_signal(wish)
            break
    told = [event["event"] for event in program.events(process)]
    assert process.wait(60) == (130 if wish == signal.SIGINT else -signal.SIGKILL)
    assert killed.exists() == (told[-1:] == ["learnt"]) == (wish == signal.SIGINT)
    state = tmp_path / "killed.state.safetensors"
    done = program.run(tmp_path, *given, "--out", str(killed), "--resume", str(state))
    assert done.returncode == 0, done.stderr
    steps = [event["step"] for event in program.parsed(done.stdout) if event["event"] == "learning"]
    assert steps[0] in (4, 5, 6)
    assert steps[-1] == 6
    assert program.run(tmp_path, *given, "--out", str(whole)).returncode == 0
    assert same(killed, whole)
    assert same(state, tmp_path / "whole.state.safetensors")


def test_a_full_disk_keeps_the_last_good_state(
    mounted: Callable[[str], Path], tmp_path: Path, pocket: Path, data_sets: Path
) -> None:
    """It ends with what the disk says; from what is on it the training goes on."""
    disk = mounted("1m")
    target = disk / "a.safetensors"
    flags = ("--steps", "4", "--save-every-n-steps", "1", *SMALL)
    made = training(data_sets, *FAST, "--out", str(target), *flags)
    told: list[Event] = []
    with Engine.load(find_checkpoint(str(pocket), tmp_path)) as engine:
        for event in train(made, engine):
            told.append(event)
            if isinstance(event, Saved) and event.step == 2:
                _fill(disk / "filler")
    assert isinstance(told[-1], Failed)
    assert "a.state.safetensors" in told[-1].error
    assert names(disk) == {"filler", "a.state.safetensors", "a-000001.safetensors", "a-000002.safetensors"}
    (disk / "filler").unlink()
    again = events(target, data_sets, pocket, *flags, "--resume", str(made.state))
    events(tmp_path / "whole.safetensors", data_sets, pocket, *flags)
    assert isinstance(again[-1], Learnt)
    assert same(target, tmp_path / "whole.safetensors")


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as opened:
        try:
            while opened.write(bytes(4096)):
                pass
        except OSError:
            return


def test_numbers_that_break_leave_what_was_learnt_beside_what_was_kept(
    tmp_path: Path, pocket: Path, data_sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights before a loss that is no number may be broken nearly, so they replace no file."""
    from diffusers_helper.training import loop

    calls: list[Any] = []

    def breaking(*given: Any) -> Any:
        calls.append(given)
        return loss(*given) * (math.nan if len(calls) == 4 else 1.0)

    loss = loop.loss_of
    monkeypatch.setattr(loop, "loss_of", breaking)
    flags = ("--steps", "9", "--save-every-n-steps", "2", *SMALL)
    told = events(tmp_path / "a.safetensors", data_sets, pocket, *flags)
    assert isinstance(told[-1], Failed)
    assert "step 4: the loss is no number any more; begin again with a lower learning rate" in told[-1].error
    assert told[-1].exit_code == 1
    kept = {"a-000002.safetensors", "a.state.safetensors", "a-000003.safetensors", "a-000003.state.safetensors"}
    assert names(tmp_path) == kept
    assert all(torch.isfinite(each).all() for each in load_file(tmp_path / "a-000003.safetensors").values())


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError("full"), OutOfMemory("full"), ZeroDivisionError("1/0")])
def test_whatever_ends_it_keeps_what_was_learnt(
    failure: Exception, tmp_path: Path, pocket: Path, data_sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By names of their own; what the program foresees is an event, all else is raised."""
    step, target = Loop._one_step, tmp_path / "x.safetensors"

    def one_step(loop: Loop) -> Done:
        if loop.step == 2:
            raise failure
        return step(loop)

    monkeypatch.setattr(Loop, "_one_step", one_step)
    told: list[Event] = []
    with Engine.load(find_checkpoint(str(pocket), tmp_path)) as engine:
        made = train(training(data_sets, *FAST, *SMALL, "--out", str(target), "--steps", "9"), engine)
        if not isinstance(failure, ZeroDivisionError):
            told = list(made)
            assert isinstance(told[-1], Failed)
        else:
            with pytest.raises(type(failure)):
                told.extend(made)
    assert names(tmp_path) == {"x-000002.safetensors", "x-000002.state.safetensors"}
