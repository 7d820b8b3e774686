"""LoRAs merged into the weights: what a dense computation in float64 gives, for all adapters and numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from diffusers_helper.errors import UnusableLora
from diffusers_helper.lora.adapters import Adapter
from diffusers_helper.lora.merge import Merge
from diffusers_helper.lora.reading import LoRA
from diffusers_helper.models.shards import WeightSource

from .test_beside_linears import COLUMNS, CPU, KINDS_OF_ADAPTER, ROWS, dense_delta, lora_of, random, relative

A, B = 64 * "a", 64 * "b"
LAYER, OTHER = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k"


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    made = {f"{layer}.weight": random(ROWS, COLUMNS, seed=number) for number, layer in enumerate((LAYER, OTHER))}
    return {name: each.to(dtype) for name, each in {**made, f"{LAYER}.bias": random(ROWS)}.items()}


def merge(*loras: tuple[str, LoRA, float]) -> Merge:
    return Merge(loras, CPU)


@pytest.mark.parametrize("kind", KINDS_OF_ADAPTER)
@pytest.mark.parametrize("strength", [-10.0, -0.5, 0.8, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merged_weight_is_the_dense_sum(kind: str, strength: float, dtype: torch.dtype) -> None:
    adapter, source = KINDS_OF_ADAPTER[kind](), weights(dtype)
    before = {name: each.clone() for name, each in source.items()}
    made: WeightSource = merge((A, lora_of({LAYER: adapter}), strength))(source)
    weight = source[f"{LAYER}.weight"].double()
    found = made[f"{LAYER}.weight"]
    assert found.dtype == torch.float32
    assert relative(found, weight + strength * dense_delta(adapter, weight)) < 1e-6
    assert list(made) == list(source)
    assert len(made) == len(source)
    assert made[f"{OTHER}.weight"] is source[f"{OTHER}.weight"]
    assert made[f"{LAYER}.bias"] is source[f"{LAYER}.bias"]
    assert all(torch.equal(before[name], each) for name, each in source.items()), "the files' weights were changed"


def test_several_are_summed_and_each_sees_the_files_weight_alone() -> None:
    parts: list[tuple[float, Adapter]] = [(0.8, KINDS_OF_ADAPTER[kind]()) for kind in KINDS_OF_ADAPTER]
    loras = [(f"{number:064}", lora_of({LAYER: adapter}), strength) for number, (strength, adapter) in enumerate(parts)]
    weight = weights()[f"{LAYER}.weight"].double()
    expected = weight + sum(strength * dense_delta(adapter, weight) for strength, adapter in parts)
    assert relative(merge(*loras)(weights())[f"{LAYER}.weight"], expected) < 1e-6


def test_a_weight_is_merged_once_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, merged = KINDS_OF_ADAPTER["low rank"](), list[float]()
    monkeypatch.setattr(type(adapter), "merge_into", lambda self, changed, strength, weight: merged.append(strength))
    made = merge((A, lora_of({LAYER: adapter}), 0.5))(weights())
    assert f"{LAYER}.weight" in made
    assert "nothing" not in made
    assert not merged
    made[f"{LAYER}.weight"]
    assert merged == [0.5]


def test_its_content_says_which_files_how_strongly_and_in_which_order() -> None:
    lora = lora_of({LAYER: KINDS_OF_ADAPTER["low rank"]()})
    one = merge((A, lora, 0.5), (B, lora, 1.0))
    assert one.content == merge((A, lora, 0.5), (B, lora, 1.0)).content
    others = [
        merge((B, lora, 1.0), (A, lora, 0.5)),
        merge((A, lora, 0.5)),
        merge((A, lora, 1.0), (B, lora, 0.5)),
        merge((A, lora, 0.5), (B, lora, -1.0)),
    ]
    assert len({each.content for each in (one, *others)}) == 5
    assert one.names == {f"{LAYER}.weight"}
    assert one.content.isalnum()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_numbers_are_found_before_anything_is_changed(
    value: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from safetensors.torch import save_file

    from diffusers_helper.lora.reading import read_lora

    folder = tmp_path_factory.mktemp("lora")
    factors = {"lora_A": random(2, COLUMNS), "lora_B": random(ROWS, 2)}
    factors["lora_B"][3, 1] = value
    file = folder / "broken.safetensors"
    save_file({f"transformer.{LAYER}.{name}.weight": each for name, each in factors.items()}, file)
    lora = read_lora(file, {LAYER: (ROWS, COLUMNS)})
    with pytest.raises(UnusableLora, match=r"broken\.safetensors.*lora_B.*NaN or infinity"):
        merge((A, lora, 1.0)).check()
    merge((A, replace(lora, adapters={LAYER: KINDS_OF_ADAPTER["LoHa"]()}), 1.0)).check()
