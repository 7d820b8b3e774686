"""The passport: what a file says of itself, and the size of what it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffusers_helper.errors import UnusableLora
from diffusers_helper.lora.passport import Passport, passport_of
from diffusers_helper.lora.reading import read_lora

from . import building
from .building import SHAPES, Built

DATASETS = [
    {"resolution": [640, 640], "fp_1f_target_index": None},
    {"fp_latent_window_size": 9, "fp_1f_clean_indices": [0, 10], "fp_1f_target_index": 1, "fp_1f_no_post": True},
    {"fp_1f_target_index": 5},
]
METADATA = {
    "ss_base_model_version": "framepack",
    "ss_network_module": "networks.lora_framepack",
    "ss_learning_rate": "0.0002",
    "ss_lr_warmup_steps": "None",
    "ss_output_name": "style",
    "ss_training_comment": "made of sketches",
    "ss_datasets": json.dumps({"datasets": DATASETS}),
    "ss_tag_frequency": json.dumps({"a": {"blue": 9, "a cat ": 12}, "b": {"blue": 5}}),
    "modelspec.architecture": "framepack/lora",
}


def passport(built: Built, folder: Path) -> Passport:
    return passport_of(read_lora(built.write(folder), SHAPES), "small")


def of_everything(folder: Path) -> Passport:
    built = building.musubi_framepack(2.0, torch.bfloat16)
    built.metadata = dict(METADATA)
    built.tensors |= {"lora_te1_x.lora_up.weight": torch.ones(1, 1), "nonsense": torch.ones(1)}
    return passport(built, folder)


def test_it_says_what_the_file_is(tmp_path: Path) -> None:
    shown = of_everything(tmp_path)
    assert (shown.file, shown.fits, shown.dialects) == ("lora.safetensors", "small", ("musubi FramePack",))
    assert shown.file_bytes == (tmp_path / "lora.safetensors").stat().st_size
    assert (shown.base, shown.foreign) == ("FramePack", False)
    assert (shown.kinds, shown.ranks, shown.alphas) == ({"low rank": len(SHAPES)}, {4: len(SHAPES)}, {2.0: len(SHAPES)})
    assert (shown.scales, shown.numbers, shown.modules) == ({0.5: len(SHAPES)}, ("bfloat16",), len(SHAPES))
    assert (shown.keys, shown.of_text_encoders) == (3 * len(SHAPES) + 2, 1)
    assert set(shown.unmatched) == {"lora_te1_x.lora_up.weight", "nonsense"}


def test_it_says_what_the_training_was(tmp_path: Path) -> None:
    shown = of_everything(tmp_path)
    assert (shown.title, shown.notes) == ("style", "made of sketches")
    assert shown.trigger_words == ("blue", "a cat")
    assert shown.one_frame == {
        "fp_latent_window_size": 9,
        "fp_1f_clean_indices": [0, 10],
        "fp_1f_target_index": 1,
        "fp_1f_no_post": True,
    }
    assert shown.settings["learning_rate"] == "0.0002"
    assert "lr_warmup_steps" not in shown.settings


@pytest.mark.parametrize(
    "built", [building.musubi_framepack(), building.loha(), building.lokr(False, True), building.lokr(True, False)]
)
def test_effects_are_the_norms_of_the_deltas(tmp_path: Path, built: Built) -> None:
    for effect in passport(built, tmp_path).effects:
        delta = built.deltas[effect.module]
        assert effect.norm is not None
        assert effect.norm == pytest.approx(float(delta.norm()), rel=1e-5)
        assert effect.per_weight == pytest.approx(float(delta.square().mean().sqrt()), rel=1e-5)


def test_it_is_json(tmp_path: Path) -> None:
    content = json.loads(json.dumps(of_everything(tmp_path).as_dict()))
    assert content["ranks"] == [[4, len(SHAPES)]]
    assert content["effects"][0].keys() == {"module", "norm", "per_weight"}
    assert content["kinds"] == {"low rank": len(SHAPES)}


@pytest.mark.parametrize(
    ("metadata", "base", "foreign"),
    [
        ({}, "FramePack", False),
        ({"ss_base_model_version": "hunyuan_video"}, "HunyuanVideo", False),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "FLUX", True),
        ({"ss_base_model_version": "something new"}, "something new", False),
        ({"ss_base_model_version": "", "ss_sd_model_name": "FramePackI2V_HY.safetensors"}, "FramePack", False),
    ],
)
def test_for_which_model_it_was_made(tmp_path: Path, metadata: dict[str, str], base: str, foreign: bool) -> None:
    built = building.peft()
    built.metadata = metadata
    shown = passport(built, tmp_path)
    assert (shown.base, shown.foreign, shown.base_said) == (base, foreign, bool(metadata))


def test_original_names_are_hunyuanvideos(tmp_path: Path) -> None:
    shown = passport(building.hunyuan("diffusion_model."), tmp_path)
    assert (shown.base, shown.base_said, shown.foreign) == ("HunyuanVideo", False, False)


@pytest.mark.parametrize("text", ["", "{", "[" * 10_000, "[1, 2]", '{"a": 1}', '{"a": {"b": "c"}}', "null", "1e999"])
def test_metadata_that_is_nonsense_says_nothing(tmp_path: Path, text: str) -> None:
    built = building.peft()
    built.metadata = {"ss_datasets": text, "ss_tag_frequency": text}
    shown = passport(built, tmp_path)
    assert (shown.trigger_words, shown.one_frame) == ((), {})


def test_broken_weights_are_found_while_it_is_made(tmp_path: Path) -> None:
    built = building.peft()
    built.tensors["transformer.proj_out.lora_A.weight"][0, 0] = float("nan")
    with pytest.raises(UnusableLora, match=r"transformer\.proj_out\.lora_A\.weight holds NaN"):
        passport(built, tmp_path)
