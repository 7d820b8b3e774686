"""What settings ask of the weights: which of two choices counts, what is said, and what the video then looks like."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusers_helper import cli, settings
from diffusers_helper.engine import Engine
from diffusers_helper.errors import InvalidSetting, UnusableInput
from diffusers_helper.events import Finished
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.memory.costs import Constraints, Machine, Precision, Workload
from diffusers_helper.memory.vram import segments_grow
from diffusers_helper.models import quantise, weights
from diffusers_helper.models.load import Compute
from diffusers_helper.models.modulation import ModulationTable
from diffusers_helper.models.sizes import FULL_SIZE
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.models.weights import constraints_of
from diffusers_helper.request import Request
from diffusers_helper.settings import ALLOCATOR_VARIABLES, Settings
from diffusers_helper.words import plain

from ..memory.support import plan_on


def resolved(**variables: str) -> Settings:
    return settings.resolve({}, variables, Path("nowhere.json"))


def with_models_in(folder: Path, chosen: Settings) -> Settings:
    return replace(chosen, paths=replace(chosen.paths, models_dir=folder))


@pytest.mark.parametrize(
    ("variables", "precision", "said"),
    [
        ({}, "auto", []),
        ({"FRAMEPACK_QUANTISE": "off"}, "as_is", []),
        ({"FRAMEPACK_QUANTISE": "int8"}, "int8", []),
        ({"FRAMEPACK_FP8_SCALED": "1"}, "fp8", []),
        ({"FRAMEPACK_USE_BNB": "1"}, "bnb8", []),
        ({"FRAMEPACK_USE_BNB": "1", "FRAMEPACK_BNB_LOAD_IN_4BIT": "1"}, "bnb4", []),
        ({"FRAMEPACK_BNB_LOAD_IN_4BIT": "1"}, "bnb4", ["also without FRAMEPACK_USE_BNB"]),
        ({"FRAMEPACK_QUANTISE": "int8", "FRAMEPACK_FP8_SCALED": "1"}, "int8", ["--quantise int8 goes before --fp8-sc"]),
        (
            {"FRAMEPACK_FP8_SCALED": "1", "FRAMEPACK_USE_BNB": "1"},
            "fp8",
            ["--fp8-scaled goes before FRAMEPACK_USE_BNB"],
        ),
        ({"FRAMEPACK_BNB_CPU_OFFLOAD": "1"}, "auto", ["FRAMEPACK_BNB_CPU_OFFLOAD has no effect"]),
        ({"FRAMEPACK_USE_BNB": "1", "FRAMEPACK_USE_MEMORY_V2": "1"}, "bnb8", ["--use-memory-v2 has nothing to swap"]),
        ({"FRAMEPACK_USE_MEMORY_V2": "1"}, "auto", []),
    ],
)
def test_which_setting_counts_is_a_rule_and_the_others_are_told(
    variables: dict[str, str], precision: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "bitsandbytes", lambda: None)
    chosen = resolved(**variables)
    assert constraints_of(chosen.weights, chosen.memory).precision == precision
    notices = chosen.every_notice()
    assert len(notices) == len(said)
    assert all(words in str(notice) for words, notice in zip(said, notices, strict=True))


def test_bitsandbytes_that_is_missing_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "find_spec", lambda name: None)
    chosen = resolved(FRAMEPACK_BNB_LOAD_IN_4BIT="1")
    with pytest.raises(UnusableInput, match="bitsandbytes need that package"):
        constraints_of(chosen.weights, chosen.memory)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("FRAMEPACK_QUANTISE", "int3", "allowed are auto, off, int8, fp8, bnb8, bnb4"),
        ("FRAMEPACK_USE_BNB", "perhaps", "allowed are 1, true, yes, on, 0, false, no, off"),
        ("FRAMEPACK_BNB_CPU_OFFLOAD", "perhaps", "allowed are 1, true, yes, on, 0, false, no, off"),
        ("FRAMEPACK_PRESERVED_MEMORY_GB", "-1", "allowed is a number of GB from 6 to 128"),
        ("FRAMEPACK_PRESERVED_MEMORY_GB", "x", "allowed is a number of GB from 6 to 128"),
        ("FRAMEPACK_PRESERVED_MEMORY_GB", "129", "allowed is a number of GB from 6 to 128"),
        ("PYTORCH_CUDA_ALLOC_CONF", "fast", "give name:value"),
    ],
)
def test_a_bad_value_names_the_variable_and_what_is_allowed(variable: str, value: str, words: str) -> None:
    with pytest.raises(InvalidSetting) as refusal:
        resolved(**{variable: value})
    assert f"{variable}={value!r}: {words}" in str(refusal.value)


def test_the_allocators_settings_are_taken_with_a_colon_and_with_an_equals_sign() -> None:
    right = "expandable_segments:True,max_split_size_mb:128"
    for text in (right, "expandable_segments:True,max_split_size_mb=128"):
        assert resolved(PYTORCH_CUDA_ALLOC_CONF=text).memory.cuda_alloc_conf == right


@pytest.mark.parametrize(
    ("device", "asked", "precision", "reason"),
    [
        ("cuda", {}, "int8", ""),
        ("cuda", {"FRAMEPACK_QUANTISED_MATMUL": "1"}, "int8", "unless --compile"),
        ("cuda", {"FRAMEPACK_QUANTISED_MATMUL": "1", "FRAMEPACK_COMPILE": "1"}, "int8", ""),
        ("cuda", {"FRAMEPACK_QUANTISED_MATMUL": "1"}, "as_is", ""),
        ("cpu", {"FRAMEPACK_QUANTISED_MATMUL": "1"}, "int8", ""),
        ("cuda", {"FRAMEPACK_QUANTISED_MATMUL": "1", "FRAMEPACK_COMPILE": "1"}, "fp8", "no such products here"),
    ],
)
def test_products_in_8_bits_are_left_where_they_are_slower(
    device: str, asked: dict[str, str], precision: Precision, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = {"fp8": plain("no such products here")}
    monkeypatch.setattr(weights, "why_not_multiply", lambda precision, device: lacking.get(precision))
    monkeypatch.setattr("diffusers_helper.models.speed.why_not", lambda device: None)
    compute = Compute(torch.device(device), *[torch.float32] * 3, "")
    there, asked_for = Machine(0, 0, 10**12, 10**12, 10**12), Constraints(precision=precision)
    plan, chosen = plan_on(there, FULL_SIZE, Workload.of(64, 64), asked_for), resolved(**asked)
    said = weights.why_no_products(plan, compute, chosen.weights, chosen.kernels)
    assert reason in str(said or "")
    assert bool(said) == bool(reason)


def test_products_in_8_bits_are_tried_once_for_a_load(
    pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is wrong with them is told with every video."""
    asked: list[str] = []
    monkeypatch.setattr(
        weights, "why_not_multiply", lambda precision, device: asked.append(precision) or plain("none here")
    )
    chosen = resolved(FRAMEPACK_QUANTISE="int8", FRAMEPACK_QUANTISED_MATMUL="1")
    with Engine.load(find_checkpoint("pocket", pocket), with_models_in(tmp_path, chosen)) as made:
        assert asked == ["int8"]
        assert list(map(str, made._notices)) == ["--quantised-matmul has no effect: none here."]


def test_settings_that_do_not_count_are_told_with_every_video(pocket: Path, tmp_path: Path) -> None:
    given = {"FRAMEPACK_ATTENTION": "sdpa", "FRAMEPACK_XFORMERS_MODE": "standard", "FRAMEPACK_BNB_CPU_OFFLOAD": "1"}
    chosen = with_models_in(tmp_path, resolved(**given))
    with Engine.load(find_checkpoint("pocket", pocket), chosen) as made:
        assert len(chosen.every_notice()) == 2
        assert made._notices == chosen.every_notice()


def test_segments_grow_by_default_where_they_can() -> None:
    default = resolved()
    assert default.memory.cuda_alloc_conf == ("expandable_segments:True" if sys.platform == "linux" else "")
    assert resolved(PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:64").memory.cuda_alloc_conf == "max_split_size_mb:64"
    both = resolved(PYTORCH_ALLOC_CONF="expandable_segments:False", PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:64")
    assert both.memory.cuda_alloc_conf == "expandable_segments:False", "PyTorch reads that one first"


@pytest.mark.parametrize(
    ("text", "platform", "grow"),
    [
        ("expandable_segments:True", "linux", True),
        ("max_split_size_mb:128, expandable_segments:True", "linux", True),
        ("expandable_segments:True", "win32", False),
        ("expandable_segments:False", "linux", False),
        ("max_split_size_mb:128", "linux", False),
    ],
)
@pytest.mark.parametrize("given", [(), ("PYTORCH_CUDA_ALLOC_CONF",), ("PYTORCH_ALLOC_CONF",)])
def test_the_plan_knows_whether_segments_grow(
    text: str, platform: str, grow: bool, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever way it was asked for, both variables say the same to PyTorch, old and new."""
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in given:
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(sys, "platform", platform)
    cli.prepare(settings.resolve({} if given else {"cuda_alloc_conf": text}, file=tmp_path / "none"))
    assert {os.environ[name].replace(" ", "") for name in ALLOCATOR_VARIABLES} == {text.replace(" ", "")}
    assert segments_grow() is grow


def test_an_empty_setting_leaves_the_allocator_to_pytorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.setenv(name, "expandable_segments:True")
    cli.prepare(settings.resolve({"cuda_alloc_conf": ""}, file=tmp_path / "none"))
    assert not os.environ.keys() & {*ALLOCATOR_VARIABLES}
    assert not segments_grow()


@pytest.fixture(scope="module")
def made(quick_checkpoint: Path, photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """A section, by the numbers its weights are kept in."""
    folder = tmp_path_factory.mktemp("weights")
    return {name: _video(quick_checkpoint, photograph, folder / name, name) for name in ("off", "int8", "fp8")}


def _video(folder_of_checkpoint: Path, photograph: Path, folder: Path, name: str) -> np.ndarray:
    checkpoint = find_checkpoint(str(folder_of_checkpoint), folder)
    chosen = with_models_in(folder / "models", resolved(FRAMEPACK_QUANTISE=name))
    height, width = min(checkpoint.buckets)
    fields = {"picture": str(photograph), "size": f"{width}x{height}", "kind": "f1", "seconds": 1.0, "steps": 4}
    with Engine.load(checkpoint, chosen) as engine:
        assert isinstance(engine.parts.transformer.modulation, ModulationTable)
        *_, last = generate(Request.parse({**fields, "prompt": "the camera pans left"}), engine, folder)
    assert isinstance(last, Finished)
    return read_frames(Path(last.path or ""))


def psnr(frames: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((frames.astype(np.float64) - expected) ** 2)))


@pytest.mark.parametrize(("name", "at_least"), [("int8", 35.0), ("fp8", 30.0)])
def test_quantised_weights_make_nearly_the_same_video(made: dict[str, np.ndarray], name: str, at_least: float) -> None:
    assert made[name].shape == made["off"].shape
    assert psnr(made[name], made["off"]) > at_least


def test_int8_is_nearer_than_fp8(made: dict[str, np.ndarray]) -> None:
    assert psnr(made["int8"], made["off"]) > psnr(made["fp8"], made["off"])
