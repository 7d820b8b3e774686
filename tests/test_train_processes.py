"""A training in two processes, started as accelerate starts them, learns what one does with twice the batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from diffusers_helper.events import Event, Learning, Learnt, Saved
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.settings import resolve
from diffusers_helper.training.train import load_engine, train

from .blue import blue_set, training
from .conftest import ROOT

FLAGS = ("--steps", "2", "--guidance-scale", "10", "--learning-rate", "1e-3", "--network-dim", "2")


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path, pocket: Path) -> None:
    """The first alone tells and writes."""
    sets, two, one = blue_set(tmp_path), tmp_path / "two.safetensors", tmp_path / "one.safetensors"
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    asked = ("--data", str(sets), "--out", str(two), "--checkpoint", str(pocket), "--json", *FLAGS)
    done = subprocess.run(
        [sys.executable, *launch, "-m", "diffusers_helper", "train", *asked],
        cwd=ROOT,
        env={**os.environ, "HF_HOME": str(tmp_path / "models"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [Event.from_json(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [type(event) for event in told if isinstance(event, Learning | Saved | Learnt)] == [
        Learning, Learning, Saved, Learnt,
    ]  # fmt: skip

    made = training(sets, *FLAGS, "--gradient-accumulation-steps", "2", "--out", str(one))
    with load_engine(made, find_checkpoint(str(pocket), pocket), resolve({}, {})) as engine:
        alone = [event for event in train(made, engine) if isinstance(event, Learning)]
    assert [event.loss for event in told if isinstance(event, Learning)] == [event.loss for event in alone]
    found, expected = load_file(two), load_file(one)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
