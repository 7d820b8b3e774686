"""What the shelf shows of a file, from its header alone: the same as the passport, and no weight is read for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusers_helper.errors import UnusableLora
from diffusers_helper.lora.bases import shapes_in
from diffusers_helper.lora.dialects import written_names
from diffusers_helper.lora.header import read_header
from diffusers_helper.lora.label import Fit, Label, Transformers, label_of, names_of
from diffusers_helper.lora.passport import passport_of
from diffusers_helper.lora.reading import read_lora
from diffusers_helper.lora.said import said_in

from ..conftest import ROOT
from . import building
from .building import SHAPES, Built
from .test_bad_input import CONTENTS

POCKET = ROOT / "checkpoints" / "pocket" / "transformer"
DATASETS = {"datasets": [{"fp_1f_target_index": 1, "fp_1f_clean_indices": [0, 10], "fp_1f_no_post": True}]}
METADATA = {
    "modelspec.title": "A style",
    "modelspec.description": "for portraits",
    "modelspec.trigger_phrase": "in the style of",
    "ss_base_model_version": "framepack",
    "ss_steps": "2000",
    "ss_guidance_scale": "1.0",
    "ss_datasets": json.dumps(DATASETS),
    "recommended_steps": "30",
    "recommended_guidance": "6.5",
}


def label(file: Path) -> Label:
    return label_of(read_header(file), {"small": written_names(SHAPES)})


@pytest.mark.parametrize(
    "built",
    [
        pytest.param(building.musubi_framepack(), id="musubi FramePack"),
        pytest.param(building.musubi_hunyuan(), id="musubi HunyuanVideo"),
        pytest.param(building.peft(), id="diffusers"),
        pytest.param(building.hunyuan("diffusion_model."), id="HunyuanVideo"),
        pytest.param(building.loha(), id="LoHa"),
        pytest.param(building.lokr(True, False), id="LoKr"),
    ],
)
def test_a_label_says_what_the_passport_says(tmp_path: Path, built: Built) -> None:
    file = Built(built.tensors, metadata=METADATA).write(tmp_path)
    found, passport = label(file), passport_of(read_lora(file, SHAPES))
    assert found.fits == {"small": Fit(passport.keys)}
    assert (found.dialects, found.base, found.foreign) == (passport.dialects, passport.base, passport.foreign)
    assert (found.file_bytes, found.keys) == (passport.file_bytes, passport.keys)
    assert (found.said.title, found.said.notes) == (passport.title, passport.notes) == ("A style", "for portraits")
    low_rank = any(".lora_" in key for key in built.tensors)
    assert found.ranks == (tuple(passport.ranks) if low_rank else ())
    assert found.said.trigger_words == passport.trigger_words == ("in the style of",)
    assert found.said.one_frame == passport.one_frame


def test_what_goes_with_a_file_is_read_and_its_training_is_not_taken_for_it() -> None:
    said = said_in(METADATA)
    assert said.wishes == {"steps": 30.0, "distilled_guidance": 6.5}
    assert said.one_frame == {"fp_1f_target_index": 1, "fp_1f_clean_indices": [0, 10], "fp_1f_no_post": True}
    assert said_in({"ss_steps": "2000", "ss_guidance_scale": "1.0", "recommended_steps": "many"}).wishes == {}


def test_a_file_of_another_size_or_model_has_a_reason(tmp_path: Path) -> None:
    wide = {f"transformer.transformer_blocks.0.attn.to_q.lora_{name}.weight": torch.ones(99, 99) for name in "AB"}
    save_file(wide, tmp_path / "wide.safetensors")
    save_file({"unet.down.lora_A.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    for name in ("wide", "other"):
        file = tmp_path / f"{name}.safetensors"
        with pytest.raises(UnusableLora) as refused:
            read_lora(file, SHAPES)
        problem = str(label(file).fits["small"].problem)
        assert name == "wide" or problem in str(refused.value)
        assert name == "other" or "99 x 99, but transformer_blocks.0.attn.to_q is 8 x 8 here" in problem


def test_a_lora_of_flux_is_foreign(tmp_path: Path) -> None:
    built = building.peft()
    built.metadata = {"modelspec.architecture": "flux-1-dev/lora"}
    found = label(built.write(tmp_path))
    assert (found.base, found.foreign) == ("FLUX", True)


def test_tags_that_are_no_text_are_left_out() -> None:
    tags = '{"folder": {"a\\ud800": 3, "b": 2}}'
    assert said_in({"ss_tag_frequency": tags}).trigger_words == ()
    assert said_in({"ss_tag_frequency": tags.replace("\\ud800", "")}).trigger_words == ("a", "b")


@pytest.mark.parametrize("name", [name for name in CONTENTS if name != "no header"])
def test_a_broken_file_has_the_reason_that_its_reading_has(tmp_path: Path, name: str) -> None:
    content, words = CONTENTS[name]
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UnusableLora, match="cannot be used: ") as refused:
        read_header(tmp_path / "a.safetensors")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "header", ["[]", "7", '{"a": 1}', '{"a": {}}', '{"a": {"data_offsets": ["x", "y"]}}', '{"__metadata__": 3}']
)
def test_json_that_is_no_header_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(UnusableLora, match="it is no safetensors file"):
        read_header(tmp_path / "a.safetensors")


def test_a_checkpoint_s_headers_tell_the_names_of_its_layers(tmp_path: Path) -> None:
    assert names_of(POCKET) == written_names(shapes_in(POCKET))
    transformers = Transformers()
    found = transformers.names({"pocket": POCKET, "none": tmp_path / "none"})
    assert found["pocket"] == names_of(POCKET)
    assert found["none"] == {}
    assert transformers.names({"pocket": POCKET})["pocket"] is found["pocket"]


def test_labels_need_no_torch() -> None:
    program = "import sys; sys.modules['torch'] = None; import diffusers_helper.lora.watch"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
