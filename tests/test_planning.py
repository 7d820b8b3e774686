"""A checkpoint as the numbers that its memory plan is made of, and plans that are made before anything is loaded."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffusers_helper import planning
from diffusers_helper.engine import Engine
from diffusers_helper.errors import OutOfMemory, UnusableCheckpoint
from diffusers_helper.memory.costs import Constraints, Machine
from diffusers_helper.memory.units import GB
from diffusers_helper.models.load import load_parts
from diffusers_helper.models.sizes import FULL_SIZE, part_sizes
from diffusers_helper.models.table import WEIGHTS_PARTS, Checkpoint, find_checkpoint
from diffusers_helper.models.weights import TransformerWeights
from diffusers_helper.planning import plan_video_memory, planner_for
from diffusers_helper.request import Request

from .memory.support import FLOAT32, as_if_on


@pytest.fixture
def checkpoint(quick_checkpoint: Path) -> Checkpoint:
    return find_checkpoint(str(quick_checkpoint), quick_checkpoint)


def test_sizes_are_those_of_the_loaded_parts(pocket: Path) -> None:
    checkpoint = find_checkpoint("pocket", pocket)
    parts, sizes = load_parts(checkpoint, FLOAT32), part_sizes(checkpoint, dict.fromkeys(WEIGHTS_PARTS, "F32"))
    count = sizes.block_weights + sizes.modulation_weights + sizes.other_weights
    assert count == sum(weights.numel() for weights in parts.transformer.parameters())
    assert sizes.rest["vae"] == sum(weights.numel() for weights in parts.vae.parameters())
    assert (sizes.blocks, sizes.width, sizes.vae_channels) == (8, 192, 16)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_weights_in_the_numbers_of_their_file_are_mapped(pocket: Path) -> None:
    """Which is why the plan counts no RAM for them."""
    checkpoint = find_checkpoint("pocket", pocket)
    compute = replace(FLOAT32, encoder_dtype=torch.bfloat16, transformer_dtype=torch.bfloat16)
    parts, sizes = load_parts(checkpoint, compute), part_sizes(checkpoint, planning.dtype_names(compute))
    assert sizes.mapped == {"transformer", "text_encoder", "text_encoder_2", "image_encoder"}
    for part in WEIGHTS_PARTS:
        weights = [tensor for tensor in getattr(parts, part).parameters() if tensor.nbytes > 2**16]
        assert all(mapped_file(tensor).endswith(".safetensors") for tensor in weights) == (part in sizes.mapped), part


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_transformer_loaded_by_its_plan_is_mapped_too_and_its_file_once(pocket: Path, tmp_path: Path) -> None:
    checkpoint, compute = find_checkpoint("pocket", pocket), replace(FLOAT32, transformer_dtype=torch.bfloat16)
    plan = planner_for(checkpoint, compute, Constraints(precision="as_is"), tmp_path).plan
    loaded = TransformerWeights(checkpoint, compute, plan, models_dir=tmp_path)
    transformer = loaded.load()
    weights = [tensor for tensor in transformer.parameters() if tensor.nbytes > 2**16]
    assert all(mapped_file(tensor).endswith(".safetensors") for tensor in weights)
    lines = Path("/proc/self/maps").read_text().splitlines()
    file = mapped_file(weights[0])
    before = sum(line.endswith(file) for line in lines)
    again = loaded.load()
    lines = Path("/proc/self/maps").read_text().splitlines()
    assert sum(line.endswith(file) for line in lines) <= before + 2, "not once for every tensor"
    assert len(list(again.parameters())) > 100


def mapped_file(tensor: torch.Tensor) -> str:
    """The file whose mapping holds the tensor's first byte; empty for ordinary memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in fields[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return fields[5] if len(fields) > 5 else ""
    return ""


@pytest.mark.parametrize("damage", [b"", b"\0" * 8, b"<!DOCTYPE html>" * 99, b"\x02\0\0\0\0\0\0\0[]"])
def test_damaged_headers_are_named(damage: bytes, pocket: Path, tmp_path: Path) -> None:
    pocket_copy = Path(shutil.copytree(pocket, tmp_path / "copy"))
    next((pocket_copy / "vae").glob("*.safetensors")).write_bytes(damage)
    with pytest.raises(UnusableCheckpoint, match=r"the vae in .* is damaged"):
        part_sizes(find_checkpoint(str(pocket_copy), tmp_path), dict.fromkeys(WEIGHTS_PARTS, "F32"))


def test_a_checkpoint_that_cannot_fit_is_refused_before_loading(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 13B checkpoint on a 16 GB machine of which half is in use."""
    as_if_on(Machine(12 * GB, 11 * GB, 17 * GB, 9 * GB, 99 * GB), monkeypatch)
    monkeypatch.setattr(planning, "part_sizes", lambda checkpoint, sizes: FULL_SIZE)
    with pytest.raises(OutOfMemory, match=r"GB of RAM \(9\.0 GB are free\)"):
        Engine.load(checkpoint)


def test_where_the_usual_latent_window_does_not_fit_a_small_one_is_loaded_for(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_if_on(Machine(5 * GB, 4 * GB, 34 * GB, 30 * GB, 99 * GB), monkeypatch)
    monkeypatch.setattr(planning, "part_sizes", lambda checkpoint, dtypes: FULL_SIZE)
    planner = planner_for(replace(checkpoint, buckets=((640, 608),)), FLOAT32, Constraints(), tmp_path)
    assert planner.plan.peak_vram_bytes <= 4 * GB
    usual, small = (Request.parse({"picture": "-", "latent_window": window}) for window in (9, 3))
    assert plan_video_memory(planner, small, 640, 608).precision == "int8"
    with pytest.raises(OutOfMemory, match="A latent window of 3 would fit"):
        plan_video_memory(planner, usual, 640, 608)
