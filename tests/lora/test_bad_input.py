"""What is no LoRA, a broken one, or one for another model, is refused in words that name the file and the key."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from diffusers_helper.errors import UnusableLora
from diffusers_helper.lora.bases import full_size_shapes
from diffusers_helper.lora.passport import passport_of
from diffusers_helper.lora.reading import read_lora
from diffusers_helper.words import LANGUAGES, Texts

from . import building
from .building import SHAPES, Built, random

KEY = "lora_unet_transformer_blocks_0_attn_to_q"


def refusal(path: Path) -> str:
    with pytest.raises(UnusableLora) as caught:
        passport_of(read_lora(path, SHAPES))
    assert caught.value.exit_code == 2
    for language in LANGUAGES:
        assert "{" not in Texts(language).said(caught.value.said)
    told = str(caught.value)
    assert told.startswith(f"The LoRA {path} cannot be used: ")
    return told.partition("cannot be used: ")[2]


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".pth", ".PT"])
def test_a_pickle_is_not_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(b"")
    file.chmod(0)
    assert refusal(file).startswith("it is a pickle, and opening one can run any program. It was not read.")


WHOLE = save({f"{KEY}.lora_down.weight": torch.ones(4, 8), f"{KEY}.lora_up.weight": torch.ones(8, 4)})


def with_header(header: str) -> bytes:
    """A file of one number."""
    return struct.pack("<Q", len(header)) + header.encode() + bytes(4)


ONE_NUMBER = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
NO_SAFETENSORS = "it is no safetensors file, or a part of it is missing"
CONTENTS: dict[str, tuple[bytes, str]] = {
    "a zip": (b"PK\x03\x04" + bytes(100), "it is a pickle"),
    "an old pickle": (b"\x80\x02}q\x00.", "it is a pickle"),
    "nothing": (b"", "it is empty (0 bytes)"),
    "HTML": (b"\n<!DOCTYPE html><html></html>", "it is a web page"),
    "XML": (b"\xef\xbb\xbf<?xml?>" + bytes(20), "it is a web page"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "it only points to a file in Git LFS"),
    "a text": (b"hello, this is a text of some length", "it is no safetensors file"),
    "a few bytes": (b"abc", "it is no safetensors file"),
    "an error": (b'{"error": "login required"}', "it is no safetensors file"),
    "cut in the header": (WHOLE[:40], NO_SAFETENSORS),
    "cut in the tensors": (WHOLE[:-8], NO_SAFETENSORS),
    "cut by a byte": (WHOLE[:-1], NO_SAFETENSORS),
    "one byte more": (WHOLE + b"\0", NO_SAFETENSORS),
    "a large header": (struct.pack("<Q", 2**40) + WHOLE[8:], "it is no safetensors file"),
    "deep JSON": (struct.pack("<Q", 10**5) + b"[" * 10**5, "it is no safetensors file"),
    "no places": (with_header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[]}}'), NO_SAFETENSORS),
    "a place without end": (with_header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e999]}}'), NO_SAFETENSORS),
    "half a character": (with_header(f'{{"__metadata__":{{"b":"\\ud800"}},"a":{ONE_NUMBER}}}'), NO_SAFETENSORS),
    "no header": (struct.pack("<Q", 2) + b"{}", "of its 0 tensors none names a layer"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_no_safetensors_file_says_what_it_is(tmp_path: Path, name: str) -> None:
    content, words = CONTENTS[name]
    (tmp_path / "a.safetensors").write_bytes(content)
    assert refusal(tmp_path / "a.safetensors").startswith(words)


@pytest.mark.parametrize("length", [640, 1152, 0x3C20, 0x3C])
def test_a_header_whose_length_looks_like_another_file_is_read(tmp_path: Path, length: int) -> None:
    """0x80 0x02 is the beginning of a pickle, and of a header of 640 bytes; 0x3c is "<", behind a blank or not."""
    header, body = WHOLE[8 : 8 + int.from_bytes(WHOLE[:8], "little")].rstrip(), bytes(4 * 64)
    if length < len(header):
        header, body = b"{}", b""
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", length) + header.ljust(length) + body)
    if body:
        assert set(read_lora(file, SHAPES).adapters) == {"transformer_blocks.0.attn.to_q"}
    else:
        assert refusal(file).startswith("of its 0 tensors none names a layer")


def test_a_name_that_the_header_has_twice_is_refused(tmp_path: Path) -> None:
    entry = f'"{KEY}.alpha":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    header = f"{{{entry},{entry}}}".encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert refusal(tmp_path / "a.safetensors").startswith(f"it has two tensors with the name {KEY}.alpha.")


def test_no_file_and_no_plain_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.safetensors") == "there is no such file. Check its name."
    assert refusal(tmp_path) == "it is a folder or a device, not a file."
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert refusal(tmp_path / "pipe.safetensors") == "it is a folder or a device, not a file."
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "none.safetensors")
    assert refusal(tmp_path / "link.safetensors") == "there is no such file. Check its name."


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    file = building.peft().write(tmp_path)
    file.chmod(0)
    assert refusal(file) == "it cannot be read: Permission denied."


def changed(change: Callable[[dict[str, Tensor]], object]) -> Built:
    built = building.musubi_framepack(dtype=torch.float32)
    change(built.tensors)
    return built


def with_value(factor: str, value: float) -> Callable[[dict[str, Tensor]], object]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"{KEY}.{factor}"].view(-1)[-1] = value

    return change


def with_tensor(factor: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({f"{KEY}.{factor}": tensor})


def without(factor: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(f"{KEY}.{factor}")


INCOMPLETE = "a factor is missing, is one too many, or does not fit the others."
TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "NaN": (with_value("lora_up.weight", float("nan")), f"{KEY}.lora_up.weight holds NaN or infinity"),
    "infinity": (with_value("lora_down.weight", float("-inf")), f"{KEY}.lora_down.weight holds NaN or infinity"),
    "NaN in fp8": (
        with_tensor("lora_up.weight", torch.full((8, 4), float("nan")).to(torch.float8_e4m3fn)),
        f"{KEY}.lora_up.weight holds NaN or infinity",
    ),
    "negative alpha": (with_value("alpha", -2.0), f"{KEY}.alpha is -2; an alpha is one number, 0 or more."),
    "infinite alpha": (with_value("alpha", float("inf")), f"{KEY}.alpha holds NaN or infinity"),
    "two alphas": (with_tensor("alpha", torch.ones(2)), f"{KEY}.alpha is of shape [2]; an alpha is one number"),
    "no alpha in it": (with_tensor("alpha", torch.ones(0)), f"{KEY}.alpha is of shape [0]; an alpha is one number"),
    "ranks differ": (with_tensor("lora_up.weight", torch.ones(8, 5)), INCOMPLETE),
    "rank 0": (
        lambda tensors: tensors.update(
            {f"{KEY}.lora_up.weight": torch.ones(8, 0), f"{KEY}.lora_down.weight": torch.ones(0, 8)}
        ),
        INCOMPLETE,
    ),
    "a vector": (with_tensor("lora_up.weight", torch.ones(8)), INCOMPLETE),
    "a convolution": (with_tensor("lora_down.weight", torch.ones(4, 8, 3, 3)), INCOMPLETE),
    "turned": (
        with_tensor("lora_up.weight", torch.ones(4, 4)),
        "make a change of 4 x 8, but transformer_blocks.0.attn.to_q is 8 x 8 here. It was made for another model.",
    ),
    "no lower factor": (without("lora_down.weight"), INCOMPLETE),
    "no upper factor": (without("lora_up.weight"), INCOMPLETE),
    "alpha alone": (
        lambda tensors: [tensors.pop(f"{KEY}.{name}.weight") for name in ("lora_up", "lora_down")],
        INCOMPLETE,
    ),
    "two kinds": (with_tensor("hada_w1_a", torch.ones(8, 4)), INCOMPLETE),
    "whole numbers": (
        with_tensor("lora_up.weight", torch.ones(8, 4, dtype=torch.int8)),
        f"{KEY}.lora_up.weight is of the type I8, which weights cannot be here.",
    ),
    "a Tucker core": (
        with_tensor("lora_mid.weight", torch.ones(4, 4, 3, 3)),
        f"{KEY}.lora_mid.weight is a factor that",
    ),
    "a scale of fp8": (
        with_tensor("lora_up.scale_weight", torch.ones(1)),
        f"{KEY}.lora_up.scale_weight is a factor that this program cannot apply",
    ),
    "both names of a factor": (
        with_tensor("lora_A.weight", torch.ones(4, 8)),
        "both change the same layer; only one can be meant.",
    ),
    "two dialects": (
        lambda tensors: tensors.update(building.peft().tensors),
        "both change the same layer; only one can be meant.",
    ),
    "fused and cut": (
        lambda tensors: tensors.update(building.hunyuan("diffusion_model.").tensors),
        "both change the same layer; only one can be meant.",
    ),
    "DoRA over columns": (with_tensor("dora_scale", torch.ones(1, 8)), INCOMPLETE),
}


@pytest.mark.parametrize("name", TENSORS)
def test_broken_tensors_are_named(tmp_path: Path, name: str) -> None:
    change, words = TENSORS[name]
    told = refusal(changed(change).write(tmp_path))
    assert words in told
    assert (KEY if "two dialects" not in name and "fused" not in name else "lora_unet_") in told


LOKR = {"lokr_w1": (2, 1), "lokr_w2": (4, 8), "lokr_w1_a": (2, 3), "lokr_w1_b": (3, 1), "lokr_w2_a": (4, 3)}


@pytest.mark.parametrize(
    "names", [("lokr_w1",), ("lokr_w1", "lokr_w2", "lokr_w1_a"), ("lokr_w1", "lokr_w2_a"), ("lokr_w1_b", "lokr_w2")]
)
def test_half_a_lokr_is_none(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert INCOMPLETE in refusal(Built({f"{KEY}.{name}": torch.ones(LOKR[name]) for name in names}).write(tmp_path))


def test_loha_whose_halves_differ_is_none(tmp_path: Path) -> None:
    built = building.loha()
    built.tensors[f"{KEY}.hada_w2_a"] = torch.ones(7, 3)
    assert INCOMPLETE in refusal(built.write(tmp_path))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object, not list"),
        ("[" * 10_000, "is not JSON"),
        ('{"transformer.lora_alpha": -1}', "lora_alpha is -1; it must be a number, 0 or more"),
        ('{"transformer.lora_alpha": NaN}', "lora_alpha is nan"),
        ('{"transformer.lora_alpha": "4"}', "lora_alpha is '4'"),
        ('{"lora_alpha": true}', "lora_alpha is True"),
        ('{"alpha_pattern": []}', None),
        ('{"alpha_pattern": [1]}', "alpha_pattern must be a JSON object"),
        ('{"alpha_pattern": {"to_q": -3}}', "alpha_pattern to_q is -3"),
        ('{"alpha_pattern": {"(a+)+$": 3}}', "regular expression '(a+)+$'; only names are followed"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused(tmp_path: Path, config: str, words: str | None) -> None:
    built = building.peft()
    built.metadata = {"lora_adapter_metadata": config}
    file = built.write(tmp_path)
    if words is None:
        assert len(read_lora(file, SHAPES).adapters) == len(SHAPES)
        return
    told = refusal(file)
    assert told.startswith("lora_adapter_metadata in it cannot be followed: ")
    assert words in told


FOREIGN: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, str], str]] = {
    "Wan": ({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": (4, 5120)}, {}, "Wan"),
    "Wan, by kohya": ({"lora_unet_blocks_0_cross_attn_q.lora_down.weight": (4, 5120)}, {}, "Wan"),
    "FLUX": ({"lora_unet_double_blocks_30_img_mlp_0.lora_down.weight": (4, 3072)}, {}, "FLUX"),
    "SDXL": ({"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": (4, 640)}, {}, "Stable Diffusion"),
    "by its metadata": (
        {"some.layer.lora_A.weight": (4, 8)},
        {"modelspec.architecture": "qwen-image/lora"},
        "Qwen-Image",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_another_models_lora_is_refused_and_told_apart(tmp_path: Path, name: str) -> None:
    sizes, metadata, model = FOREIGN[name]
    built = Built({key: random(*size) for key, size in sizes.items()}, metadata=metadata)
    told = refusal(built.write(tmp_path))
    assert told.startswith(f"of its 1 tensor none names a layer of this model; one is {next(iter(sizes))}.")
    assert told.endswith(f"It looks like a LoRA for {model}.")


def test_whole_weights_are_no_lora(tmp_path: Path) -> None:
    built = Built({f"{name}.weight": torch.ones(shape) for name, shape in SHAPES.items()})
    assert "none names a layer of this model; one is " in refusal(built.write(tmp_path))


def test_a_lora_of_another_size_names_layer_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(UnusableLora, match=r"make a change of .* is .* here. It was made for another model") as caught:
        read_lora(building.musubi_framepack().write(tmp_path), full_size_shapes())
    assert "lora_unet_" in str(caught.value)


def test_what_matches_nothing_is_kept_by_name(tmp_path: Path) -> None:
    built = building.musubi_framepack()
    others = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(4, 8),
        "lora_unet_transformer_blocks_99_attn_to_q.lora_down.weight": torch.ones(4, 8),
        "lora_unet_transformer_blocks_0_attn_to_q.lora_up.bias": torch.ones(8),
        "x_embedder.proj.lora_A.weight": torch.ones(4, 16, 1, 2, 2),
        "nonsense": torch.ones(1),
    }
    built.tensors |= others
    lora = read_lora(built.write(tmp_path), SHAPES)
    assert set(lora.unmatched) == set(others)
    assert len(lora.adapters) == len(SHAPES)


@pytest.mark.parametrize("name", ["🎥.safetensors", "x" * 243 + ".safetensors", "a b'.SAFETENSORS"])
def test_a_file_may_be_called_anything(tmp_path: Path, name: str) -> None:
    file = building.peft().write(tmp_path)
    file = file.rename(tmp_path / name)
    assert len(read_lora(file, SHAPES).adapters) == len(SHAPES)
    file.write_bytes(b"")
    with pytest.raises(UnusableLora) as caught:
        read_lora(file, SHAPES)
    str(caught.value).encode()


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = building.peft().write(tmp_path).rename(tmp_path / os.fsdecode(b"\xff.safetensors"))
    with pytest.raises(UnusableLora, match=r"\\xff\.safetensors cannot be used: its name is not UTF-8"):
        read_lora(file, SHAPES)


def test_a_key_of_any_length_or_signs_is_shown_in_part(tmp_path: Path) -> None:
    header = json.dumps({"\x1b[31m" + "k" * 5000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    told = refusal(tmp_path / "a.safetensors")
    assert told.isprintable()
    assert len(told) < 400
