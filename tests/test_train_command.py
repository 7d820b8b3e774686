"""The command ``train`` on the pocket: from pictures to a LoRA that the application uses, stopped and gone on with; and
what it refuses before the first step."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.lora.header import read_header
from diffusers_helper.lora.said import said_in
from diffusers_helper.train_command import NUMBERS, add_arguments, training_of
from diffusers_helper.training.loop import LoopOptions
from diffusers_helper.training.noise import NoiseLevels
from diffusers_helper.training.train import Training

from . import program

FAST = ("--steps", "3", "--guidance-scale", "10", "--learning-rate", "1e-3")


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs that turn blue, as a one-frame set."""
    folder = tmp_path_factory.mktemp("learnt")
    for name in ("coffee", "rocket"):
        photograph = Image.fromarray(getattr(pictures, name)()).resize((128, 128))
        blue = (np.asarray(photograph) * np.array([0.2, 0.4, 1.0])).astype(np.uint8)
        for part, picture in (("ctl", photograph), ("img", Image.fromarray(blue))):
            (folder / part).mkdir(exist_ok=True)
            picture.save(folder / part / f"{name}.png")
        (folder / "img" / f"{name}.txt").write_text("everything turns blue", encoding="utf-8")
    sets = ['image_directory="img"', 'control_directory="ctl"', "fp_1f_clean_indices=[0]", "fp_1f_target_index=9"]
    switches = ["fp_1f_no_post=true", "fp_1f_no_2x=true", "fp_1f_no_4x=true", "resolution=[128, 128]"]
    (folder / "sets.toml").write_text("\n".join(["[[datasets]]", *sets, *switches]), encoding="utf-8")
    return folder / "sets.toml"


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
    tensors = [file.read_bytes()[8 + int.from_bytes(file.read_bytes()[:8], "little") :] for file in (whole, again)]
    assert tensors[0] == tensors[1]

    sheet = tmp_path / "sheet.png"
    asked = ("--image", str(photograph), "--steps", "2", "--size", "128x128", "--checkpoint", str(pocket))
    flags = ("--lora", str(whole), "--sweep", "lora_weight=0,4", "--out", str(sheet))
    done = program.run(tmp_path, "one-frame", *asked, *flags)
    assert done.returncode == 0, done.stderr
    plain, changed = (np.asarray(Image.open(tmp_path / f"sheet_00{n}.png")) for n in (1, 2))
    assert not np.array_equal(plain, changed)


REFUSED: dict[tuple[str, ...], str] = {
    ("--steps", "0"): "--steps: 0 is not allowed; give a whole number from 1 on",
    ("--learning-rate", "nan"): "--learning-rate: nan is not allowed",
    ("--learning-rate", "0"): "--learning-rate: 0.0 is not allowed",
    ("--network-dim", "0"): "--network-dim: 0 is not allowed",
    ("--network-alpha", "0"): "--network-alpha: 0.0 is not allowed",
    ("--network-module", "locon"): "--network-module: 'locon' is not known; known are lora, dora, loha, lokr",
    ("--network-args", "colour=1"): "network_args: 'colour=1' is not known",
    ("--timestep-sampling", "often"): "--timestep-sampling: 'often' is not known; known are sigma, uniform",
    ("--weighting-scheme", "much"): "--weighting-scheme: 'much' is not known",
    ("--min-timestep", "900", "--max-timestep", "100"): "--min-timestep: 900 to 100 is not allowed",
    ("--max-timestep", "1001"): "--min-timestep: 0 to 1001 is not allowed",
    ("--optimizer", "adamx"): "optimizer: 'adamx' is not known; known are Adadelta",
    ("--optimizer-args", "x"): "optimizer_args: 'x' is not key=value",
    ("--lr-scheduler", "step"): "lr_scheduler: 'step' is not known; known are linear",
    ("--out", "a.ckpt"): "is not the name of a .safetensors file",
    ("--data", "nowhere"): "there is no such folder",
}


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(flags)


@pytest.mark.parametrize("flags", REFUSED)
def test_what_cannot_be_trained_is_refused_before_anything(flags: tuple[str, ...], data_sets: Path) -> None:
    given = {"--data": str(data_sets), "--out": "a.safetensors", **dict(zip(flags[::2], flags[1::2], strict=True))}
    with pytest.raises(InvalidRequest) as refused:
        training_of(parsed(*(part for pair in given.items() for part in pair)))
    assert REFUSED[flags] in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--network-args", "exclude_patterns=.*"), "no module is left to train"),
        (("--resume", "gone.safetensors"), "training cannot go on from it"),
    ],
)
def test_what_the_model_shows_is_refused_too(
    flags: tuple[str, ...], said: str, tmp_path: Path, pocket: Path, data_sets: Path
) -> None:
    done = trained(tmp_path, pocket, data_sets, "--out", str(tmp_path / "x.safetensors"), *flags)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "x.safetensors").exists()


def training(data_sets: Path, *flags: str) -> Training:
    return training_of(parsed("--data", str(data_sets), "--out", "a.safetensors", *flags))


FLAGS: dict[str, tuple[str, ...]] = {
    "steps": ("--max-train-steps", "7"),
    "rate": ("--learning-rate", "0.5"),
    "optimiser": ("--optimizer-type", "SGD"),
    "optimiser_args": ("--optimizer-args", "momentum=0.9"),
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
}


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_says_one_thing(name: str, data_sets: Path) -> None:
    def values(made: Training) -> dict[str, Any]:
        parts = (made.loop, made.loop.levels, made.network)
        return {field.name: getattr(part, field.name) for part in parts for field in fields(part)}

    before, after = values(training(data_sets)), values(training(data_sets, *FLAGS[name]))
    assert {key for key in before if before[key] != after[key]} - {"levels"} == {name}


def test_every_option_has_a_flag_in_the_table() -> None:
    options = {field.name for each in (LoopOptions, NoiseLevels) for field in fields(each)}
    assert options - {"levels"} <= set(FLAGS)
    assert set(NUMBERS) - {"save_every_n_steps"} <= {flags[0][2:].replace("-", "_") for flags in FLAGS.values()} | {
        "steps"
    }
