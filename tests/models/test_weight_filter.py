"""What stands between the files and the model reaches every kind of weights: a filter of a few lines does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_helper import settings
from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished
from diffusers_helper.generate import generate
from diffusers_helper.models.modulation import ModulationTable
from diffusers_helper.models.shards import WeightFilter
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request

LINEAR = "transformer_blocks.0.attn.to_q.weight"
TABULATED = "single_transformer_blocks.0.norm.linear.weight"
FACTOR = 1.5
Latents = Callable[[str], Tensor]
packed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
KINDS = ["off", "int8", "fp8", pytest.param("bnb8", marks=packed), pytest.param("bnb4", marks=packed)]


class Scaled(Mapping[str, Tensor]):
    """The weights of a source, one of them scaled."""

    def __init__(self, source: Mapping[str, Tensor], name: str) -> None:
        self._source, self._name = source, name

    def __getitem__(self, name: str) -> Tensor:
        return self._source[name] * FACTOR if name == self._name else self._source[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def latents(folder: Path, quantise: str, photograph: Path, work: Path, weight_filter: WeightFilter | None) -> Tensor:
    work.mkdir(exist_ok=True)
    chosen = settings.resolve({"quantise": quantise, "models_dir": str(work)}, {}, work / "none")
    checkpoint, file = find_checkpoint(str(folder), work), work / "latents.safetensors"
    asked = {"picture": str(photograph), "prompt": "-", "seconds": 1.0, "steps": 1, "seed": 3, "kind": "f1"}
    with Engine.load(checkpoint, chosen, weight_filter=weight_filter) as engine:
        assert isinstance(engine.parts.transformer.modulation, ModulationTable)
        *_, last = generate(Request.parse(asked), engine, work, latents_result=file)
    assert isinstance(last, Finished), last
    return load_file(file)["latents"]


@pytest.fixture(scope="module", params=[LINEAR, TABULATED], ids=["a linear", "a tabulated one"])
def scaled(request: pytest.FixtureRequest, quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with one linear scaled in its files; in a folder that is called by its name."""
    folder = Path(shutil.copytree(quick_checkpoint, tmp_path_factory.mktemp("scaled") / request.param))
    (file,) = (folder / "transformer").glob("*.safetensors")
    weights = load_file(file)
    save_file({**weights, request.param: weights[request.param] * FACTOR}, file)
    return folder


@pytest.fixture(scope="module")
def unscaled(quick_checkpoint: Path, photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> Latents:
    """The latents that the checkpoint makes as it is, by what its weights are kept in."""

    @cache
    def made(quantise: str) -> Tensor:
        return latents(quick_checkpoint, quantise, photograph, tmp_path_factory.mktemp("unscaled"), None)

    return made


@pytest.mark.parametrize("quantise", KINDS)
def test_a_scaled_linear_is_as_one_that_is_scaled_on_disk(
    quantise: str, scaled: Path, quick_checkpoint: Path, photograph: Path, tmp_path: Path, unscaled: Latents
) -> None:
    name = scaled.name
    expected = latents(scaled, quantise, photograph, tmp_path / "a", None)
    found = latents(quick_checkpoint, quantise, photograph, tmp_path / "b", lambda source: Scaled(source, name))
    assert torch.equal(found, expected)
    assert not torch.equal(found, unscaled(quantise))


@pytest.mark.parametrize("filtered", [True, False])
def test_filtered_weights_are_not_kept_for_the_next_start(
    filtered: bool, quick_checkpoint: Path, photograph: Path, tmp_path: Path
) -> None:
    """They belong to the filter, which the name of the file does not know."""
    latents(quick_checkpoint, "int8", photograph, tmp_path, (lambda source: source) if filtered else None)
    assert (tmp_path / "quantised").exists() is not filtered
