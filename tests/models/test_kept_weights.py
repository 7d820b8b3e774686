"""The quantised transformer from disk: the same as quantised in memory, written once, made again when damaged."""

from __future__ import annotations

import copy
import errno
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_helper.errors import UnusableCheckpoint
from diffusers_helper.memory.filling import KeepUntilFull
from diffusers_helper.models.fill import empty_transformer, fill
from diffusers_helper.models.kept_weights import Keeping, kept_file, made_slots, made_weights
from diffusers_helper.models.modulation import tabulate
from diffusers_helper.models.quantise import KINDS, Quantisation, quantise
from diffusers_helper.models.shards import Shards
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.models.weights import finished

from ..parity import pack
from .test_swapped_transformer import inputs, velocity

MODEL = pack.PACK / "model"


def load(
    cache: Path, precision: Quantisation = "int8", table: bool = True, folder: Path = MODEL
) -> FramePackTransformer:
    source, transformer = Shards(folder), empty_transformer(folder, torch.float32)
    quantise(transformer, precision)
    if table:
        tabulate(transformer, source)
    keeping = Keeping(kept_file(cache, "content", precision, torch.float32))
    asked = (made_slots(transformer), keeping, KeepUntilFull(torch.device("cpu")))
    return fill(transformer, source, folder, finished(made_weights(transformer, source, folder, *asked)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder to damage, its weights in one file."""
    folder = tmp_path / "model"
    pack.transformer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("table", [True, False])
def test_the_first_and_the_second_start_are_the_same_model(
    precision: Quantisation, table: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_memory = copy.deepcopy(pack.transformer())
    quantise(in_memory, precision)
    expected = velocity(in_memory, inputs())
    caplog.set_level(logging.INFO)
    assert torch.equal(velocity(load(tmp_path / "cache", precision, table), inputs()), expected)
    assert "making the weights" in caplog.text
    caplog.clear()
    assert torch.equal(velocity(load(tmp_path / "cache", precision, table), inputs()), expected)
    assert "making the weights" not in caplog.text


def test_the_file_serves_with_a_table_and_without(tmp_path: Path) -> None:
    load(tmp_path, table=True)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_ino
    load(tmp_path, table=False)
    assert file.stat().st_ino == before
    assert not any(".norm1.linear" in name for name in load_file(file))


@pytest.mark.parametrize("damage", ["truncated", "empty", "of another model"])
def test_a_damaged_file_is_made_again(damage: str, tmp_path: Path) -> None:
    expected = velocity(load(tmp_path), inputs())
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if damage == "of another model":
        save_file({"a": torch.zeros(1)}, file)
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"")
    assert torch.equal(velocity(load(tmp_path), inputs()), expected)
    assert file.read_bytes() == whole


def test_a_full_disk_costs_only_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("diffusers_helper.models.kept_weights.content", full)
    load(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["missing", "shape", "fp8", "truncated"])
def test_what_is_wrong_with_the_checkpoint_is_named(damage: str, model: Path, tmp_path: Path) -> None:
    (file,) = model.glob("*.safetensors")
    weights, name = load_file(file), "single_transformer_blocks.0.proj_mlp.weight"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        weight = weights.pop(name)
        changed = {"shape": weight[:1].clone(), "fp8": weight.to(torch.float8_e4m3fn)}
        save_file({**weights, **({name: changed[damage]} if damage in changed else {})}, file)
    words = {"missing": "lacks", "shape": "promises", "fp8": "16 bits", "truncated": "damaged"}[damage]
    with pytest.raises(UnusableCheckpoint, match=words):
        load(tmp_path / "cache", folder=model)
    assert not any((tmp_path / "cache").glob("**/*"))
