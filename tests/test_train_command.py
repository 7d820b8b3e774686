"""The command ``train`` on the pocket: from pictures to a LoRA that the application uses, stopped and gone on with; and
what it refuses before the first step."""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusers_helper.engine import Engine
from diffusers_helper.errors import CancelRequested, InvalidRequest
from diffusers_helper.events import Encoded, Event, Events, Learning, Learnt
from diffusers_helper.lora.header import read_header
from diffusers_helper.lora.said import said_in
from diffusers_helper.memory.costs import Stored
from diffusers_helper.models.load import choose_compute, load_as_it_is, load_parts
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.settings import add_flags, resolve
from diffusers_helper.train_command import add_arguments, order_of
from diffusers_helper.training.network import Network, NetworkOptions
from diffusers_helper.training.order import TrainingOrder
from diffusers_helper.training.remarks import remarks
from diffusers_helper.training.train import train
from diffusers_helper.training.training import Training, training_of

from . import program
from .blue import blue_set, parsed, training
from .memory.support import FLOAT32, SOME, Change, changed_planner, moving, unchanged


def replace_stored(stored: Stored) -> Change:
    """A plan by which blocks pass through in training."""
    return moving("swapped", "swapped", **SOME, stored=stored)


FAST = ("--steps", "3", "--guidance-scale", "10", "--learning-rate", "1e-3")


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs that turn blue, as a one-frame set."""
    return blue_set(tmp_path_factory.mktemp("learnt"))


def trained(tmp_path: Path, pocket: Path, data_sets: Path, *flags: str) -> Any:
    common = ("--data", str(data_sets), "--checkpoint", str(pocket), *FAST)
    return program.run(tmp_path, "train", *common, *flags)


def test_a_lora_is_trained_and_used(tmp_path: Path, pocket: Path, data_sets: Path, photograph: Path) -> None:
    """Its file says with which places in time it was trained; from its last state nothing is left to do."""
    whole, again = tmp_path / "whole.safetensors", tmp_path / "again.safetensors"
    flags = ("--json", "--save-every-n-steps", "2", "--network-args", "verbose=true")
    done = trained(tmp_path, pocket, data_sets, "--out", str(whole), *flags)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["step"] for event in events if event["event"] == "learning"] == [1, 2, 3]
    notices = [event["message"] for event in events if event["event"] == "notice"]
    assert any("transformer_blocks.0.attn.to_q" in notice for notice in notices), "verbose lists the modules"
    saved = [Path(event["path"]).name for event in events if event["event"] == "saved"]
    assert saved == ["whole-000002.safetensors", "whole.safetensors"]
    assert (events[-1]["event"], events[-1]["step"], events[-1]["path"]) == ("learnt", 3, str(whole))
    metadata = read_header(whole).metadata
    assert said_in(metadata).one_frame["fp_1f_clean_indices"] == [0]
    assert metadata["ss_learning_rate"] == "0.001"
    assert str(data_sets.parent) not in json.dumps(metadata)

    last = (tmp_path / "whole.state.safetensors").rename(tmp_path / "last.state.safetensors")
    done = trained(tmp_path, pocket, data_sets, "--out", str(again), "--resume", str(last))
    assert done.returncode == 0, done.stderr
    assert numbers_of(whole) == numbers_of(again)

    sheet = tmp_path / "sheet.png"
    asked = ("--image", str(photograph), "--steps", "2", "--size", "128x128", "--checkpoint", str(pocket))
    flags = ("--lora", str(whole), "--sweep", "lora_weight=0,4", "--out", str(sheet))
    done = program.run(tmp_path, "one-frame", *asked, *flags)
    assert done.returncode == 0, done.stderr
    plain, changed = (np.asarray(Image.open(tmp_path / f"sheet_00{n}.png")) for n in (1, 2))
    assert not np.array_equal(plain, changed)


def numbers_of(file: Path) -> bytes:
    """All that follows the header."""
    content = file.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_a_stop_writes_what_was_learnt_and_is_told_by_one_last_event(
    tmp_path: Path, pocket: Path, data_sets: Path
) -> None:
    """Before the first step there is nothing to write."""
    with Engine.load(find_checkpoint(str(pocket), tmp_path)) as engine:
        for steps, kind in ((0, Encoded), (2, Learning)):
            made = training(data_sets, "--out", str(tmp_path / f"{steps}.safetensors"), "--steps", "9")
            last = stopped_at(train(made, engine), kind, max(steps, 1))
            assert isinstance(last, Learnt)
            assert (last.step, last.steps) == (steps, 9)
            assert made.target.exists() == made.state.exists() == bool(steps)


def stopped_at(events: Events, kind: type[Event], count: int) -> Event:
    """The only event after so many of a kind, at which a stop is wished."""
    for event in events:
        count -= isinstance(event, kind)
        if not count:
            break
    last = events.throw(CancelRequested())
    assert list(events) == []
    return last


def test_fp8_base_is_fp8_scaled(data_sets: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    add_flags(parser)
    given = ["--data", str(data_sets), "--out", "a.safetensors"]
    found = [resolve(vars(parser.parse_args([*given, *flags])), {}) for flags in ([], ["--fp8-base"], ["--fp8-scaled"])]
    assert [each.weights.quantise for each in found] == ["auto", "fp8", "fp8"]


@pytest.mark.parametrize("plan", [replace_stored("again"), replace_stored("in_ram")], ids=["swapped", "in RAM"])
def test_weights_that_move_teach_the_same(plan: Change, tmp_path: Path, pocket: Path, data_sets: Path) -> None:
    """The whole training by plans as of a GPU, in the same bits as where nothing moves."""
    checkpoint, learnt = find_checkpoint(str(pocket), tmp_path), []
    for change in (unchanged, plan):
        made = training(data_sets, "--out", str(tmp_path / "x.safetensors"), *FAST)
        parts, planner = load_parts(checkpoint, FLOAT32), changed_planner(checkpoint, FLOAT32, change)
        with Engine(checkpoint, FLOAT32, parts, planner) as engine:
            assert isinstance(list(train(made, engine))[-1], Learnt)
        learnt.append(numbers_of(made.target))
    assert learnt[0] == learnt[1]


REMARKS: dict[tuple[str, ...], str] = {
    ("--weighting-scheme", "mode"): "--weighting-scheme mode has no effect but with --timestep-sampling sigma",
    ("--logit-mean", "1"): "--logit-mean and --logit-std has no effect",
    ("--mode-scale", "1"): "--mode-scale has no effect",
    ("--timestep-sampling", "uniform", "--discrete-flow-shift", "2"): "--discrete-flow-shift has no effect",
    ("--timestep-sampling", "uniform", "--sigmoid-scale", "2"): "--sigmoid-scale has no effect",
    ("--preserve-distribution-shape",): "--preserve-distribution-shape has no effect without",
    ("--lr-warmup-steps", "3"): "--lr-warmup-steps has no effect with --lr-scheduler constant",
    ("--network-module", "lokr", "--network-args", "loraplus_lr_ratio=4"): "loraplus_lr_ratio has no effect on lokr",
    ("--dynamo-fullgraph",): "--dynamo-mode, --dynamo-fullgraph and --dynamo-dynamic has no effect without",
    ("--network-args", "factor=4"): "factor has no effect on lora",
    ("--save-last-n-steps", "3"): "--save-last-n-steps has no effect without --save-every-n-steps",
    ("--save-last-n-epochs", "3"): "--save-last-n-epochs has no effect without --save-every-n-epochs",
    ("--no-metadata", "--training-comment", "x"): "--training-comment has no effect with --no-metadata",
    ("--wandb-run-name", "x"): "--wandb-run-name has no effect without --log-with wandb or all",
    ("--log-prefix", "x"): "--log-prefix and --log-tracker-name has no effect without --logging-dir",
    ("--validate-every-n-steps", "3"): "--validate-every-n-steps has no effect without --validation-split",
}


@pytest.mark.parametrize("flags", REMARKS)
def test_what_has_no_effect_is_told(flags: tuple[str, ...], data_sets: Path) -> None:
    assert list(remarks(training(data_sets))) == []
    assert any(each.startswith(REMARKS[flags]) for each in remarks(training(data_sets, *flags)))


def test_the_form_follows_the_kind(data_sets: Path) -> None:
    kinds = ("lora", "dora", "loha", "lokr")
    forms = {kind: training(data_sets, "--network-module", kind).form for kind in kinds}
    assert forms == {"lora": "musubi", "dora": "diffusers", "loha": "musubi", "lokr": "musubi"}
    for kind, form in (("dora", "musubi"), ("loha", "diffusers"), ("lokr", "diffusers")):
        with pytest.raises(InvalidRequest, match=f"--form: {form} has no names for {kind}; give"):
            training(data_sets, "--network-module", kind, "--form", form)


def test_dora_leaves_out_what_has_no_direction(pocket: Path, tmp_path: Path) -> None:
    checkpoint = find_checkpoint(str(pocket), tmp_path)
    network = Network(load_as_it_is(checkpoint, choose_compute()), NetworkOptions("dora"))
    assert set(network.left_out) == {f"transformer_blocks.0.attn.{name}" for name in ("to_v", "add_v_proj")}
    assert not set(network.left_out) & set(network.modules)


REFUSED: dict[tuple[str, ...], str] = {
    ("--steps", "0"): "steps: 0 is not allowed; give a whole number from 1 to 10000000",
    ("--learning-rate", "nan"): "learning_rate: nan is not allowed",
    ("--learning-rate", "0"): "learning_rate: 0.0 is not allowed",
    ("--network-dim", "0"): "network_dim: 0 is not allowed",
    ("--network-alpha", "0"): "network_alpha: 0.0 is not allowed",
    ("--network-module", "locon"): "network_module: 'locon' is not allowed; give 'lora', 'dora', 'loha' or 'lokr'",
    ("--network-args", "colour=1"): "network_args: 'colour=1' is not known",
    ("--timestep-sampling", "often"): "timestep_sampling: 'often' is not allowed; give 'sigma', 'uniform'",
    ("--weighting-scheme", "much"): "weighting_scheme: 'much' is not allowed",
    ("--min-timestep", "900", "--max-timestep", "100"): "min_timestep: 900 to 100 is not allowed",
    ("--max-timestep", "1001"): "max_timestep: 1001 is not allowed",
    ("--optimizer", "adamx"): "optimizer: 'adamx' is not known; known are Adadelta",
    ("--optimizer-args", "colour=1"): "optimizer_args: AdamW does not take them: ",
    ("--optimizer-args", "betas=7"): "optimizer_args: AdamW does not take them: ",
    ("--optimizer-args", "x"): "optimizer_args: 'x' is not key=value",
    ("--dynamo-backend", "fast"): "dynamo_backend: 'fast' is not known; known are no, eager, aot_eager, inductor",
    ("--dynamo-mode", "fast"): "dynamo_mode: 'fast' is not allowed",
    ("--lr-scheduler", "step"): "lr_scheduler: 'step' is not known; known are linear",
    ("--out", "a.ckpt"): "out: 'a.ckpt' is not allowed; give where the LoRA goes, a name that ends in .safetensors",
    ("--ema-decay", "1"): "ema_decay: 1.0 is not allowed",
    ("--log-with", "all"): "log_with: 'all' is not allowed without a folder; give logging_dir too",
    ("--validation-split", "1"): "validation_split: 1.0 is not allowed; give a number from 0 to 0.9",
    ("--data", "nowhere"): "there is no such folder",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_what_cannot_be_trained_is_refused_before_anything(flags: tuple[str, ...], data_sets: Path) -> None:
    given = {"--data": str(data_sets), "--out": "a.safetensors", **dict(zip(flags[::2], flags[1::2], strict=True))}
    with pytest.raises(InvalidRequest) as refused:
        training_of(order_of(parsed(*(part for pair in given.items() for part in pair))))
    assert REFUSED[flags] in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--network-args", "exclude_patterns=.*"), "no module is left to train"),
        (("--resume", "gone.safetensors"), "training cannot go on from it"),
        (("--out", "nowhere/x.safetensors"), "nowhere"),
    ],
)
def test_what_the_model_shows_is_refused_too(
    flags: tuple[str, ...], said: str, tmp_path: Path, pocket: Path, data_sets: Path
) -> None:
    done = trained(tmp_path, pocket, data_sets, "--out", str(tmp_path / "x.safetensors"), *flags)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "x.safetensors").exists()


def test_nothing_that_was_learnt_is_written_over(tmp_path: Path, pocket: Path, data_sets: Path) -> None:
    """A state alone is kept too."""
    for name in ("x.safetensors", "y.state.safetensors"):
        (tmp_path / name).write_bytes(b"learnt")
        out = tmp_path / f"{name[0]}.safetensors"
        done = trained(tmp_path, pocket, data_sets, "--out", str(out))
        assert (done.returncode, "is there already" in done.stderr) == (2, True), done.stderr
        assert (tmp_path / name).read_bytes() == b"learnt"


FLAGS: dict[str, tuple[str, ...]] = {
    "steps": ("--max-train-steps", "7"),
    "rate": ("--learning-rate", "0.5"),
    "optimiser": ("--optimizer-type", "SGD"),
    "optimiser_args": ("--optimizer-args", "amsgrad=True"),
    "scheduler": ("--lr-scheduler", "cosine"),
    "warmup_steps": ("--lr-warmup-steps", "3"),
    "accumulate": ("--gradient-accumulation-steps", "4"),
    "most_norm": ("--max-grad-norm", "0"),
    "guidance": ("--guidance-scale", "6"),
    "seed": ("--seed", "9"),
    "sampling": ("--timestep-sampling", "sigmoid"),
    "shift": ("--discrete-flow-shift", "6"),
    "sigmoid_scale": ("--sigmoid-scale", "2"),
    "weighting": ("--weighting-scheme", "cosmap"),
    "logit_mean": ("--logit-mean", "-0.5"),
    "logit_std": ("--logit-std", "2"),
    "mode_scale": ("--mode-scale", "1"),
    "least": ("--min-timestep", "5"),
    "most": ("--max-timestep", "900"),
    "keep_shape": ("--preserve-distribution-shape",),
    "rank": ("--network-dim", "8"),
    "alpha": ("--network-alpha", "8"),
    "kind": ("--network-module", "networks.loha"),
    "args": ("--network-args", "loraplus_lr_ratio=4"),
    "share": ("--validation-split", "0.25"),
    "every": ("--validate-every-n-steps", "5"),
    "ema_decay": ("--ema-decay", "0.9"),
    "every_steps": ("--save-every-n-steps", "5"),
    "every_epochs": ("--save-every-n-epochs", "5"),
    "last_steps": ("--save-last-n-steps", "5"),
    "last_epochs": ("--save-last-n-epochs", "5"),
    "comment": ("--training-comment", "of my cat"),
    "metadata": ("--no-metadata",),
    "folder": ("--logging-dir", "logs"),
    "prefix": ("--log-prefix", "cat_"),
    "tracker": ("--log-tracker-name", "cats"),
    "run_name": ("--wandb-run-name", "cat 1"),
    "skip_broken": ("--skip-broken-files",),
    "epochs": ("--max-train-epochs", "5"),
    "checkpointing": ("--gradient-checkpointing",),
}


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_says_one_thing(name: str, data_sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers_helper.training.training.check_packages", lambda options: None)
    logged = ("--log-with", "wandb")
    before, after = (values(training(data_sets, *logged, *flags)) for flags in ((), FLAGS[name]))
    assert {key for key in before if before[key] != after[key]} == {name}


def values(made: Training) -> dict[str, Any]:
    """All options of a training by name."""
    parts = (made.loop, made.loop.levels, made.network, made.validation, made.saving, made.logs)
    of_parts = {field.name: getattr(part, field.name) for part in parts for field in fields(part)}
    del of_parts["levels"]
    own = {name: getattr(made, name) for name in ("epochs", "checkpointing", "skip_broken")}
    return {**of_parts, **own}


def test_every_option_has_a_flag_in_the_table(data_sets: Path) -> None:
    """What is not among them has a test of its own."""
    assert values(training(data_sets)).keys() - {"trackers"} == FLAGS.keys()
    tabled = {flags[0][2:].replace("-", "_").replace("max_train_steps", "steps") for flags in FLAGS.values()}
    others = {"data", "out", "resume", "kind", "form", "log_with"}
    others |= {"sample_prompts", "sample_every_n_steps", "sample_every_n_epochs", "sample_at_first"}
    others |= {name for name in TrainingOrder.model_fields if name.startswith("dynamo_")}
    assert set(TrainingOrder.model_fields) == tabled | others


def test_an_order_is_the_same_after_json() -> None:
    order = TrainingOrder.parse(
        {"data": "sets", "out": "a.safetensors", "network_args": ["factor=4"], "form": "musubi"}
    )
    assert TrainingOrder.from_json(order.to_json()) == order
    for text in ("[1]", "{", "3", '{"data": "sets"}', '{"data": "a", "out": "a.safetensors", "colour": 1}'):
        with pytest.raises(InvalidRequest):
            TrainingOrder.from_json(text)


def test_an_order_is_the_whole_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = TrainingOrder.parse({"data": "sets", "out": "a.safetensors", "steps": 7})
    (tmp_path / "order.json").write_text(order.to_json(), encoding="utf-8")
    assert order_of(parsed("--order", str(tmp_path / "order.json"))) == order
    monkeypatch.setattr("sys.stdin", io.StringIO(order.to_json()))
    assert order_of(parsed("--order", "-")) == order
    with pytest.raises(InvalidRequest, match="leave out steps"):
        order_of(parsed("--order", "-", "--steps", "3"))
    with pytest.raises(InvalidRequest, match="data: is missing"):
        order_of(parsed("--out", "a.safetensors"))
