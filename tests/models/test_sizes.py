"""What the headers say before anything is loaded: weights of 8 bits are refused on every path."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_helper import engine, settings
from diffusers_helper.engine import Engine
from diffusers_helper.errors import UnusableCheckpoint
from diffusers_helper.models import weights
from diffusers_helper.models.sizes import part_sizes
from diffusers_helper.models.table import WEIGHTS_PARTS, Checkpoint, find_checkpoint


def with_a_tensor(pocket: Path, folder: Path, part: str, tensor: torch.Tensor) -> Checkpoint:
    """A copy of the pocket with one more tensor in a part."""
    copy = Path(shutil.copytree(pocket, folder / "copy"))
    file = next((copy / part).glob("*.safetensors"))
    save_file({**load_file(file), "blocks.0.weight": tensor}, file)
    return find_checkpoint(str(copy), folder)


@pytest.mark.parametrize("quantise", ["auto", "off", "int8", "fp8", "bnb8", "bnb4"])
def test_fp8_weights_are_refused_before_loading_whatever_is_asked_for(
    quantise: str, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = with_a_tensor(pocket, tmp_path, "transformer", torch.zeros(8, 8).to(torch.float8_e4m3fn))
    monkeypatch.setattr(weights, "bitsandbytes", lambda: None)
    monkeypatch.setattr(engine, "load_parts", lambda *_: pytest.fail("something was loaded"))
    with pytest.raises(UnusableCheckpoint, match=r"transformer in .*F8_E4M3.*scales.*16 bits.*download framepack"):
        Engine.load(checkpoint, settings.resolve({"models_dir": tmp_path, "quantise": quantise}, {}, tmp_path / "none"))


@pytest.mark.parametrize(
    ("dtype", "part"),
    [
        (torch.float8_e5m2, "text_encoder"), (torch.int8, "transformer"), (torch.uint8, "transformer"),
        (torch.float8_e4m3fn, "vae"),
    ],
)  # fmt: skip
def test_other_8_bits_and_other_parts_are_refused_too(
    dtype: torch.dtype, part: str, pocket: Path, tmp_path: Path
) -> None:
    checkpoint = with_a_tensor(pocket, tmp_path, part, torch.zeros(8, 8).to(dtype))
    with pytest.raises(UnusableCheckpoint, match=f"the {part} in .* 8 bits or fewer"):
        part_sizes(checkpoint, dict.fromkeys(WEIGHTS_PARTS, "F32"))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32])
def test_what_is_no_8_bit_weight_may_be_there(dtype: torch.dtype, pocket: Path, tmp_path: Path) -> None:
    checkpoint = with_a_tensor(pocket, tmp_path, "text_encoder_2", torch.zeros(8, 8).to(dtype))
    assert part_sizes(checkpoint, dict.fromkeys(WEIGHTS_PARTS, "F32")).blocks
