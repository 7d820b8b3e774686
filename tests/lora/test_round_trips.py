"""What is written for other programs is bit for bit what was read, and means the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_helper.errors import OutputFailed, UnusableLora
from diffusers_helper.lora.reading import read_lora
from diffusers_helper.lora.writing import FormName, write_lora

from . import building
from .building import SHAPES, Built, underscored

METADATA = {"ss_network_dim": "4", "modelspec.title": "名前 🎥", "own": "kept"}
CONFIG = "lora_adapter_metadata"


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata() or {})


def converted(file: Path, form: FormName) -> Path:
    target = file.with_name(f"{file.stem}_{form}.safetensors")
    write_lora(read_lora(file, SHAPES), target, form)
    return target


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Names, types and bits."""
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype
        and first[key].shape == second[key].shape
        and torch.equal(first[key].reshape(-1).view(torch.uint8), second[key].reshape(-1).view(torch.uint8))
        for key in first
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64])
@pytest.mark.parametrize("alpha", [2.0, 4.0, 0.3, 0.0])
def test_from_musubi_to_diffusers_and_back(tmp_path: Path, dtype: torch.dtype, alpha: float) -> None:
    built = building.musubi_framepack(alpha, dtype)
    built.metadata = dict(METADATA)
    file = built.write(tmp_path)
    between = converted(file, "diffusers")
    assert not any("alpha" in key or "lora_unet" in key for key in load_file(between))
    back = converted(between, "musubi")
    factors = {key: tensor for key, tensor in load_file(back).items() if not key.endswith("alpha")}
    assert equal(factors, {key: tensor for key, tensor in built.tensors.items() if not key.endswith("alpha")})
    alphas = {key: float(tensor) for key, tensor in load_file(back).items() if key.endswith("alpha")}
    assert alphas == {key: float(tensor) for key, tensor in built.tensors.items() if key.endswith("alpha")}
    assert metadata_of(back) == METADATA


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_the_same_form_it_is_the_same_file(tmp_path: Path, dtype: torch.dtype) -> None:
    built = building.musubi_framepack(2.0, dtype)
    built.tensors = {key: tensor.to(dtype) for key, tensor in built.tensors.items()}
    file = built.write(tmp_path)
    assert converted(file, "musubi").read_bytes() == file.read_bytes()
    between = converted(file, "diffusers")
    assert converted(between, "diffusers").read_bytes() == between.read_bytes()
    assert converted(between, "musubi").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("built", [building.loha(), building.lokr(True, False), building.lokr(False, True)])
def test_loha_and_lokr_stay_themselves_for_musubi(tmp_path: Path, built: Built) -> None:
    assert equal(load_file(converted(built.write(tmp_path), "musubi")), built.tensors)


@pytest.mark.parametrize("form", ["diffusers", "musubi"])
def test_a_fused_file_means_the_same_when_it_is_cut(tmp_path: Path, form: FormName) -> None:
    file = building.musubi_hunyuan(3.0).write(tmp_path)
    before, after = read_lora(file, SHAPES).adapters, read_lora(converted(file, form), SHAPES).adapters
    assert set(before) == set(after)
    assert all(torch.equal(before[module].delta(), after[module].delta()) for module in before)


@pytest.mark.parametrize(
    ("built", "form", "kind"),
    [
        (building.loha(), "diffusers", "LoHa"),
        (building.lokr(False, False), "diffusers", "LoKr"),
        (building.lokr(False, False, fused=True), "musubi", "dense"),
        (building.lokr(False, True, fused=True), "diffusers", "LoKr"),
    ],
)
def test_what_a_form_has_no_names_for_is_refused_and_nothing_is_written(
    tmp_path: Path, built: Built, form: FormName, kind: str
) -> None:
    with pytest.raises(UnusableLora, match=f"an adapter of the kind {kind}, which the form {form} has no names"):
        converted(built.write(tmp_path), form)
    assert [path.name for path in tmp_path.iterdir()] == ["lora.safetensors"]


def test_dora_goes_to_diffusers_alone(tmp_path: Path) -> None:
    name = "transformer.transformer_blocks.0.attn.to_q"
    built = Built(
        {
            f"{name}.lora_A.weight": torch.ones(2, 8),
            f"{name}.lora_B.weight": torch.ones(8, 2),
            f"{name}.lora_magnitude_vector": torch.ones(8),
        }
    )
    file = built.write(tmp_path)
    written = converted(file, "diffusers")
    assert equal(load_file(written), built.tensors)
    assert json.loads(metadata_of(written)[CONFIG])["transformer.use_dora"] is True
    with pytest.raises(UnusableLora, match="of the kind DoRA"):
        converted(file, "musubi")


@given(
    st.dictionaries(
        st.sampled_from(sorted(SHAPES)),
        st.tuples(st.integers(1, 5), st.one_of(st.none(), st.floats(0, 1e6, width=32))),
        min_size=1,
    )
)
def test_every_rank_and_alpha_comes_back(tmp_path_factory: pytest.TempPathFactory, given_: dict) -> None:  # type: ignore[type-arg]
    folder, built = tmp_path_factory.mktemp("lora"), Built()
    for module, (rank, alpha) in given_.items():
        height, width = SHAPES[module]
        built.tensors |= {
            f"{underscored(module)}.lora_down.weight": torch.ones(rank, width),
            f"{underscored(module)}.lora_up.weight": torch.ones(height, rank),
        }
        if alpha is not None:
            built.tensors[f"{underscored(module)}.alpha"] = torch.tensor(alpha)
    between = converted(built.write(folder), "diffusers")
    for module, adapter in read_lora(between, SHAPES).outline.items():
        rank, alpha = given_[module]
        assert (adapter.rank, adapter.alpha) == (rank, float(rank) if alpha is None else alpha)
    config = json.loads(metadata_of(between)[CONFIG])
    assert config["transformer.target_modules"] == sorted(given_)
    for module, (rank, _) in given_.items():
        assert config["transformer.rank_pattern"].get(f"^{module}", config["transformer.r"]) == rank


def test_what_diffusers_would_take_from_the_tensors_is_what_the_config_says(tmp_path: Path) -> None:
    """diffusers makes the config of files that have none by this function."""
    from diffusers.utils.peft_utils import get_peft_kwargs

    built = building.musubi_framepack(2.0)
    file = built.write(tmp_path)
    between = converted(file, "diffusers")
    state = {key.removeprefix("transformer."): tensor for key, tensor in load_file(between).items()}
    ranks = {f"^{key}": tensor.shape[1] for key, tensor in state.items() if "lora_B" in key}
    alphas = {f"{module}.alpha": 2.0 for module in SHAPES}
    theirs = get_peft_kwargs(ranks, alphas, state)
    config = json.loads(metadata_of(between)[CONFIG])
    ours = {key.removeprefix("transformer."): value for key, value in config.items()}
    assert {key: theirs[key] for key in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_dora")} == {
        key: ours[key] for key in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_dora")
    }
    assert sorted(theirs["target_modules"]) == ours["target_modules"]


@pytest.mark.parametrize("settings", [{}, {"alpha": 2.0}, {"config": {"r": 4, "lora_alpha": 2}}])
def test_peft_itself_makes_the_same_of_it(tmp_path: Path, settings: dict) -> None:  # type: ignore[type-arg]
    """As it is, and as it is written for diffusers."""
    from tests.models.tiny import tiny_transformer

    transformer = tiny_transformer()
    shapes = {name: tuple(m.weight.shape) for name, m in transformer.named_modules() if isinstance(m, torch.nn.Linear)}
    modules = {name: shape for name, shape in shapes.items() if "blocks" in name}
    tensors: dict[str, Tensor] = {}
    for seed, (name, (height, width)) in enumerate(modules.items()):
        tensors[f"transformer.{name}.lora_A.weight"] = building.random(4, width, seed=seed)
        tensors[f"transformer.{name}.lora_B.weight"] = building.random(height, 4, seed=seed)
        if "alpha" in settings:
            tensors[f"transformer.{name}.alpha"] = torch.tensor(settings["alpha"])
    config = {f"transformer.{key}": value for key, value in settings.get("config", {}).items()}
    file = Built(tensors, metadata={CONFIG: json.dumps(config)} if config else {}).write(tmp_path)
    written = tmp_path / "written.safetensors"
    lora = read_lora(file, shapes)
    write_lora(lora, written, "diffusers")
    config = json.loads(metadata_of(written)[CONFIG])
    transformer.load_lora_adapter(load_file(written), metadata=config, adapter_name="theirs")
    loaded = ["theirs"]
    if "alpha" not in settings:  # an alpha that is a tensor beside peft's names is ignored there
        given = {f"transformer.{key}": value for key, value in settings.get("config", {}).items()}
        given = given and {**given, "transformer.target_modules": sorted(modules)}
        transformer.load_lora_adapter(load_file(file), metadata=given or None, adapter_name="as_it_is")
        loaded.append("as_it_is")
    for name in modules:
        for adapter in loaded:
            theirs = transformer.get_submodule(name).get_delta_weight(adapter)
            torch.testing.assert_close(lora.adapters[name].delta(), theirs, rtol=1e-6, atol=1e-6)


def test_hashes_of_kohyas_programs_are_made_anew_where_there_are_some(tmp_path: Path) -> None:
    built = building.musubi_framepack()
    built.metadata = {"sshs_model_hash": "old", "sshs_legacy_hash": "old", "ss_seed": "1"}
    file = converted(built.write(tmp_path), "musubi")
    content = file.read_bytes()
    body = content[8 + int.from_bytes(content[:8], "little") :]
    assert metadata_of(file) == {
        "sshs_model_hash": hashlib.sha256(body).hexdigest(),
        "sshs_legacy_hash": "e3b0c442",
        "ss_seed": "1",
    }


def test_unmatched_tensors_are_left_out(tmp_path: Path) -> None:
    built = building.musubi_framepack()
    file = built.write(tmp_path)
    save_file({**built.tensors, "lora_te1_x.lora_down.weight": torch.ones(1, 1)}, file)
    assert equal(load_file(converted(file, "musubi")), built.tensors)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    lora = read_lora(building.peft().write(tmp_path), SHAPES)
    with pytest.raises(OutputFailed, match="nowhere"):
        write_lora(lora, tmp_path / "nowhere" / "out.safetensors", "musubi")


def test_a_file_may_be_written_over_itself(tmp_path: Path) -> None:
    built = building.peft()
    file = built.write(tmp_path)
    write_lora(read_lora(file, SHAPES), file, "musubi")
    adapters = read_lora(file, SHAPES).adapters
    assert all(
        torch.allclose(adapters[name].delta().double(), delta, atol=1e-5) for name, delta in built.deltas.items()
    )
