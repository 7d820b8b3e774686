"""Every form that people's files have means the same here as by its own rules, computed densely in float64."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_helper.lora.adapters import Dora, LoHa
from diffusers_helper.lora.bases import full_size_shapes, linear_shapes, shapes_in
from diffusers_helper.lora.dialects import written_names
from diffusers_helper.lora.merge import Merge
from diffusers_helper.lora.reading import LoRA, read_fitting, read_lora
from tests.models.tiny import tiny_transformer

from . import building
from .building import FUSED, SHAPES, SINGLE_MODULES, Built, random


def with_config(built: Built, prefix: str = "transformer.", **config: Any) -> Built:
    content = {f"{prefix}{key}": value for key, value in config.items()}
    return dataclasses.replace(built, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(content)})


def scaled(built: Built, scale: Callable[[str], float]) -> Built:
    return dataclasses.replace(built, deltas={name: scale(name) * delta for name, delta in built.deltas.items()})


def of_conv() -> Built:
    built = building.musubi_framepack()
    built.tensors = {key: tensor[..., None, None] if tensor.ndim else tensor for key, tensor in built.tensors.items()}
    return built


def differences() -> Built:
    built = Built()
    for name, shape in SHAPES.items():
        built.tensors[f"diffusion_model.{name}.diff"] = random(*shape)
        built.deltas[name] = random(*shape).double()
    return built


def renamed(built: Built, old: str, new: str) -> Built:
    built.tensors = {key.replace(old, new): tensor for key, tensor in built.tensors.items()}
    return built


FORMATS: dict[str, tuple[str, Callable[[], Built]]] = {
    "musubi FramePack": ("musubi FramePack", building.musubi_framepack),
    "no alpha": ("musubi FramePack", lambda: building.musubi_framepack(None)),
    "bfloat16": ("musubi FramePack", lambda: building.musubi_framepack(dtype=torch.bfloat16)),
    "float16": ("musubi FramePack", lambda: building.musubi_framepack(dtype=torch.float16)),
    "fp8": ("musubi FramePack", lambda: building.musubi_framepack(dtype=torch.float8_e4m3fn)),
    "fp8 of two": ("musubi FramePack", lambda: building.musubi_framepack(dtype=torch.float8_e5m2)),
    "1x1 convolutions": ("musubi FramePack", of_conv),
    "LyCORIS": ("musubi FramePack", lambda: renamed(building.musubi_framepack(), "lora_unet_", "lycoris_")),
    "OneTrainer": (
        "musubi FramePack",
        lambda: renamed(building.musubi_framepack(), "lora_unet_", "lora_transformer_"),
    ),
    "musubi HunyuanVideo": ("musubi HunyuanVideo", building.musubi_hunyuan),
    "Tencent": (
        "musubi HunyuanVideo",
        lambda: renamed(building.musubi_hunyuan(), "lora_unet_", "Hunyuan_video_I2V_lora_"),
    ),
    "diffusion-pipe": ("HunyuanVideo", lambda: building.hunyuan("diffusion_model.")),
    "diffusion-pipe, alpha": ("HunyuanVideo", lambda: building.hunyuan("diffusion_model.", 3.0)),
    "original, transformer": ("HunyuanVideo", lambda: building.hunyuan("transformer.")),
    "original, bare": ("HunyuanVideo", lambda: building.hunyuan("", 0.5)),
    "peft": ("diffusers", building.peft),
    "peft, alpha as a tensor": ("diffusers", lambda: building.peft(alpha=2.0)),
    "peft, saved by itself": ("diffusers", lambda: building.peft("base_model.model.", ".default")),
    "finetrainers": ("diffusers", lambda: building.peft("")),
    "LoHa": ("musubi FramePack", building.loha),
    "LoHa, fused": ("musubi HunyuanVideo", lambda: building.loha(fused=True)),
    "LoKr": ("musubi FramePack", lambda: building.lokr(False, False)),
    "LoKr, low w2": ("musubi FramePack", lambda: building.lokr(False, True)),
    "LoKr, low w1": ("musubi FramePack", lambda: building.lokr(True, False)),
    "LoKr, both low": ("musubi FramePack", lambda: building.lokr(True, True)),
    "LoKr, fused": ("musubi HunyuanVideo", lambda: building.lokr(False, True, fused=True)),
    "differences": ("diffusers", differences),
    "peft config": ("diffusers", lambda: scaled(with_config(building.peft(), r=4, lora_alpha=2), lambda _: 0.5)),
    "peft config without prefix": (
        "diffusers",
        lambda: scaled(with_config(building.peft(), "", r=4, lora_alpha=2), lambda _: 0.5),
    ),
    "rsLoRA": (
        "diffusers",
        lambda: scaled(with_config(building.peft(), r=4, lora_alpha=8, use_rslora=True), lambda _: 4.0),
    ),
    "alpha_pattern": (
        "diffusers",
        lambda: scaled(
            with_config(building.peft(), r=4, lora_alpha=4, alpha_pattern={"^proj_out": 12, "attn.to_q": 2}),
            lambda name: 3.0 if name == "proj_out" else 0.5 if name.endswith("attn.to_q") else 1.0,
        ),
    ),
    "alpha_pattern without alpha": (
        "diffusers",
        lambda: scaled(
            with_config(building.peft(), alpha_pattern={"transformer_blocks.0.attn.to_k": 2}),
            lambda name: 0.5 if name == "transformer_blocks.0.attn.to_k" else 1.0,
        ),
    ),
}


def read(built: Built, folder: Path) -> LoRA:
    return read_lora(built.write(folder), SHAPES)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_means_what_its_format_says(name: str, tmp_path: Path) -> None:
    dialect, build = FORMATS[name]
    built = build()
    lora = read(built, tmp_path)
    assert set(lora.adapters) == set(lora.outline) == set(built.deltas)
    assert (lora.unmatched, lora.dialects, lora.keys) == ((), (dialect,), len(built.tensors))
    for module, delta in built.deltas.items():
        adapter = lora.adapters[module]
        assert adapter.shape == lora.outline[module].shape == SHAPES[module]
        assert adapter.delta().dtype == torch.float32
        torch.testing.assert_close(adapter.delta().double(), delta, rtol=1e-6, atol=1e-6 * float(delta.abs().max()))
        weight = random(*SHAPES[module])
        merged = Merge((("content", lora, -0.5),), torch.device("cpu"))({f"{module}.weight": weight})
        found, expected = merged[f"{module}.weight"].double(), weight.double() - 0.5 * delta
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_musubis_form_and_the_original_form_of_one_lora_give_the_same_weights(tmp_path: Path) -> None:
    musubi = read_lora(building.musubi_hunyuan(2.0).write(tmp_path, "a.safetensors"), SHAPES)
    original = read_lora(building.hunyuan("diffusion_model.", 2.0).write(tmp_path, "b.safetensors"), SHAPES)
    assert set(musubi.adapters) == set(original.adapters)
    for module, adapter in musubi.adapters.items():
        assert torch.equal(adapter.delta(), original.adapters[module].delta())


def test_alpha_of_a_key_goes_before_that_of_the_config(tmp_path: Path) -> None:
    lora = read(with_config(building.peft(alpha=2.0), r=4, lora_alpha=100), tmp_path)
    assert {adapter.scale for adapter in lora.outline.values()} == {0.5}


def test_a_fused_layer_is_cut_and_keeps_its_kind(tmp_path: Path) -> None:
    lora = read(building.loha(fused=True), tmp_path)
    assert all(isinstance(adapter, LoHa) for adapter in lora.outline.values())
    lora = read(building.lokr(False, False, fused=True), tmp_path)
    kinds = {module: adapter.kind for module, adapter in lora.outline.items()}
    assert kinds["transformer_blocks.1.attn.to_q"] == "dense"
    assert kinds["transformer_blocks.0.attn.to_out.0"] == "LoKr"


@pytest.mark.parametrize(
    "names", [("lora_down", "lora_up", "dora_scale"), ("lora_A", "lora_B", "lora_magnitude_vector")]
)
@pytest.mark.parametrize("layer", ["transformer_blocks.0.attn.to_q", "double_blocks.0.img_attn_qkv"])
def test_dora_brings_rows_to_their_length(tmp_path: Path, layer: str, names: tuple[str, str, str]) -> None:
    down, up, magnitude = names
    height = 24 if "qkv" in layer else 8
    a, b, length = random(4, 8), random(height, 4, seed=1), random(height, seed=2).abs()
    shaped = length[:, None] if magnitude == "dora_scale" else length
    tensors = {f"{down}.weight": a, f"{up}.weight": b, magnitude: shaped, "alpha": torch.tensor(2.0)}
    built = Built({f"transformer.{layer}.{name}": tensor for name, tensor in tensors.items()})
    weight = random(height, 8, seed=3)
    changed = weight.double() + 0.5 * b.double() @ a.double()
    delta = changed / changed.norm(dim=1, keepdim=True) * length.double()[:, None] - weight.double()
    adapters = read(built, tmp_path).adapters
    for number, module in enumerate(sorted(adapters, key=lambda name: "qkv".index(name[-1]))):
        rows = slice(8 * number, 8 * number + 8)
        torch.testing.assert_close(adapters[module].delta(weight[rows]).double(), delta[rows], rtol=1e-5, atol=1e-6)
    adapter = adapters["transformer_blocks.0.attn.to_q"]
    assert isinstance(adapter, Dora)
    assert adapter.norm() is None
    with pytest.raises(ValueError, match="depends on the weight"):
        adapter.delta()


def test_where_diffusers_own_converter_is_right_it_says_the_same(tmp_path: Path) -> None:
    """At its fixed width, without alpha, without the last modulation."""
    from diffusers.loaders.lora_conversion_utils import _convert_hunyuan_video_lora_to_diffusers

    shapes = full_size_shapes()
    layers = [layer for layer, _ in written_names(shapes).values() if layer.naming == "HunyuanVideo"]
    small = {layer.name: layer for layer in layers if "adaLN" not in layer.name and not layer.name.startswith("txt_in")}
    built = Built()
    for seed, (name, layer) in enumerate((n, small[n]) for n in sorted(small) if ".1." in n or "blocks" not in n):
        height, width = layer.shape
        built.tensors |= {
            f"diffusion_model.{name}.lora_A.weight": random(1, width, seed=seed),
            f"diffusion_model.{name}.lora_B.weight": random(height, 1, seed=seed),
        }
    lora = read_lora(built.write(tmp_path), shapes)
    theirs = _convert_hunyuan_video_lora_to_diffusers(dict(built.tensors))
    assert {key.removeprefix("transformer.").partition(".lora_")[0] for key in theirs} == set(lora.adapters)
    for module, adapter in lora.adapters.items():
        for factor, name in (("down", "lora_A"), ("up", "lora_B")):
            assert torch.equal(adapter.factors()[factor], theirs[f"transformer.{module}.{name}.weight"])


def test_every_linear_has_names_and_no_name_two_linears() -> None:
    """Of FramePack at full size: underscores make no two names one."""
    shapes = full_size_shapes()
    named = written_names(shapes)
    assert {part.module for layer, _ in named.values() if layer.naming == "FramePack" for part in layer.parts} == set(
        shapes
    )
    hunyuan = {part.module for layer, _ in named.values() if layer.naming == "HunyuanVideo" for part in layer.parts}
    assert set(shapes) - hunyuan == {"image_projection.up", "image_projection.down"}
    pairs = {(name, layer.name) for name, (layer, _) in named.items()}
    per_layer: dict[str, int] = {}
    for _, layer_name in pairs:
        per_layer[layer_name] = per_layer.get(layer_name, 0) + 1
    assert set(per_layer.values()) == {8}, "no name of a layer is that of another one too"


def test_the_table_of_this_test_names_layers_that_the_transformer_has() -> None:
    known = {layer.name: layer for layer, _ in written_names(SHAPES).values() if layer.naming == "HunyuanVideo"}
    assert {name: known[name].shape for name in FUSED} == {name: size for name, (size, _) in FUSED.items()}
    assert set(SINGLE_MODULES) == set(SHAPES)


def test_sizes_come_from_the_transformer(pocket: Path) -> None:
    tiny, small = linear_shapes(tiny_transformer()), shapes_in(pocket / "transformer")
    assert tiny["single_transformer_blocks.1.proj_mlp"] == (64, 32)
    assert small["single_transformer_blocks.4.proj_out"] == (192, 768)
    named = {layer.name: layer for layer, _ in written_names(small).values()}
    assert named["single_blocks.4.linear1"].shape == (4 * 192 + 384, 192)


def test_of_several_transformers_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    file = building.musubi_framepack().write(tmp_path)
    fits, lora = read_fitting(file, {"large": full_size_shapes(), "small": SHAPES})
    assert fits == "small"
    assert len(lora.adapters) == len(SHAPES)


def test_a_file_that_is_removed_or_replaced_meanwhile_is_read_as_it_was(tmp_path: Path) -> None:
    built = building.musubi_framepack()
    file = built.write(tmp_path)
    lora = read_lora(file, SHAPES)
    file.unlink()
    torch.testing.assert_close(lora.adapters["proj_out"].delta().double(), built.deltas["proj_out"])


def test_the_outline_knows_bytes_and_ranks_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = building.peft().write(tmp_path)
    monkeypatch.setattr("diffusers_helper.lora.file.LoraFile.read", None)
    lora = read_lora(file, SHAPES)
    adapter = lora.outline["transformer_blocks.0.attn.to_q"]
    assert (adapter.rank, adapter.alpha, adapter.scale) == (4, None, 1.0)
    assert {name: tensor.nbytes for name, tensor in adapter.factors().items()} == {"down": 128, "up": 128}
    assert all(tensor.is_meta for tensor in adapter.factors().values())
