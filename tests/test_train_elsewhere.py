"""What is trained here in other programs: in diffusers' own pipeline, and by the names that musubi gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoFramepackPipeline
from safetensors.torch import load_file
from torch import Tensor

from bench.memory_model import Size, section_inputs
from diffusers_helper.engine import Engine
from diffusers_helper.events import Learnt
from diffusers_helper.lora.header import read_header
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.training.modules import trainable
from diffusers_helper.training.train import train

from .blue import blue_set, training

RANK, ALPHA = 2, 1.0
FLAGS = ("--steps", "4", "--learning-rate", "1e-2", "--guidance-scale", "10", "--network-dim", "2", "--seed", "3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pocket: Path) -> dict[str, Path]:
    """The same training in both forms."""
    folder = tmp_path_factory.mktemp("elsewhere")
    data, made = blue_set(folder / "data"), {form: folder / f"{form}.safetensors" for form in ("musubi", "diffusers")}
    for form, target in made.items():
        with Engine.load(find_checkpoint(str(pocket), folder)) as engine:
            *_, last = train(training(data, *FLAGS, "--out", str(target), "--form", form), engine)
        assert isinstance(last, Learnt), last
    return made


def linears(pocket: Path) -> dict[str, torch.nn.Linear]:
    model = FramePackTransformer.from_pretrained(pocket / "transformer", torch_dtype=torch.float32)
    return {name: model.get_submodule(name) for name in trainable(model)}  # type: ignore[misc]


def test_diffusers_pipeline_makes_the_same_of_it(trained: dict[str, Path], pocket: Path) -> None:
    """Every weight of the pipeline's transformer becomes what the file of the other form says, alpha and all."""
    pipeline: Any = HunyuanVideoFramepackPipeline.from_pretrained(pocket, torch_dtype=torch.float32)
    before = {name: linear.weight.clone() for name, linear in linears(pocket).items()}
    inputs = section_inputs(pipeline.transformer, Size({}, 8, 8, 12, 4), torch.device("cpu"))
    plain = _made(pipeline, inputs)
    pipeline.load_lora_weights(str(trained["diffusers"]), adapter_name="blue")
    learnt = _made(pipeline, inputs)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    tensors = load_file(trained["musubi"])
    for name, weight in before.items():
        down, up = (tensors[f"{_musubi(name)}.lora_{part}.weight"].float() for part in ("down", "up"))
        expected = weight + up @ down * (ALPHA / RANK)
        torch.testing.assert_close(pipeline.transformer.get_submodule(name).weight, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(_made(pipeline, inputs), learnt, rtol=1e-4, atol=1e-4)
    assert (learnt - plain).abs().max() > 100 * (_made(pipeline, inputs) - learnt).abs().max()


def _made(pipeline: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        made: Tensor = pipeline.transformer(**inputs, return_dict=False)[0]
    return made


def _musubi(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def test_names_shapes_and_metadata_are_those_of_musubi(trained: dict[str, Path], pocket: Path) -> None:
    """Of each linear two matrices and alpha as a number; what its loaders read of the metadata stands there as text."""
    shapes = {
        f"{_musubi(name)}.{key}": shape
        for name, linear in linears(pocket).items()
        for key, shape in {
            "lora_down.weight": (RANK, linear.in_features),
            "lora_up.weight": (linear.out_features, RANK),
            "alpha": (),
        }.items()
    }
    tensors = load_file(trained["musubi"])
    assert {name: tuple(each.shape) for name, each in tensors.items()} == shapes
    assert {float(each) for name, each in tensors.items() if name.endswith("alpha")} == {ALPHA}
    metadata = read_header(trained["musubi"]).metadata
    told = ("ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_base_model_version")
    assert [metadata[name] for name in told] == ["networks.lora_framepack", "2", "1.0", "framepack"]
