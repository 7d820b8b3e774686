"""What stands between the files and the model reaches every kind of weights; taken away, the files' own are there
again, bit for bit; and what it makes is kept on disk, within a limit."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_helper.errors import OutOfMemory
from diffusers_helper.memory.costs import Constraints, Precision
from diffusers_helper.memory.host import Ram
from diffusers_helper.models import kept_weights
from diffusers_helper.models.shards import WeightSource
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.models.weights import TransformerWeights, finished
from diffusers_helper.planning import planner_for

from ..memory.support import FLOAT32

LINEAR = "transformer_blocks.0.attn.to_q.weight"
TABULATED = "single_transformer_blocks.0.norm.linear.weight"
FACTOR = 2.0
packed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
KINDS = ["as_is", "int8", "fp8", pytest.param("bnb8", marks=packed), pytest.param("bnb4", marks=packed)]


@dataclass(frozen=True)
class Scale:
    """A change that multiplies one weight."""

    name: str
    factor: float = FACTOR

    @property
    def content(self) -> str:
        return f"{self.factor:g}"

    @property
    def names(self) -> frozenset[str]:
        return frozenset([self.name])

    def __call__(self, source: WeightSource) -> WeightSource:
        return Scaled(source, self)


class Scaled(Mapping[str, Tensor]):
    """The weights of a source, one of them scaled."""

    def __init__(self, source: Mapping[str, Tensor], scale: Scale) -> None:
        self._source, self._scale = source, scale

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._source[name]
        return tensor.float() * self._scale.factor if name == self._scale.name else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def checkpoint_in(folder: Path) -> Checkpoint:
    return find_checkpoint(str(folder), folder)


def weights_of(folder: Path, precision: Precision, models_dir: Path | None = None) -> TransformerWeights:
    checkpoint = checkpoint_in(folder)
    plan = planner_for(checkpoint, FLOAT32, Constraints(precision=precision), folder).plan
    return TransformerWeights(checkpoint, FLOAT32, plan, models_dir=models_dir, changed_limit_bytes=2**30)


def content(transformer: FramePackTransformer) -> dict[str, Tensor]:
    """All of its weights, and the rows that its modulation table makes."""
    found = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    if transformer.modulation is not None:
        vector = torch.linspace(-1, 1, transformer.time_text_embed.text_embedder.linear_2.out_features)[None]
        transformer.modulation.select(vector)
        norms = (module for module in transformer.modules() if hasattr(module, "output"))
        found.update({f"table {number}": norm.output.clone() for number, norm in enumerate(norms)})
    return found


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", params=[LINEAR, TABULATED], ids=["a linear", "a tabulated one"])
def scaled(request: pytest.FixtureRequest, quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with one linear scaled in its files; in a folder that is called by its name."""
    folder = Path(shutil.copytree(quick_checkpoint, tmp_path_factory.mktemp("scaled") / request.param))
    (file,) = (folder / "transformer").glob("*.safetensors")
    weights = load_file(file)
    save_file({**weights, request.param: weights[request.param] * FACTOR}, file)
    return folder


@torch.inference_mode()
@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "in memory"])
def test_a_change_is_as_one_on_disk_and_goes_without_a_trace(
    precision: Precision, keep: bool, scaled: Path, quick_checkpoint: Path, tmp_path: Path
) -> None:
    weights = weights_of(quick_checkpoint, precision, tmp_path if keep else None)
    expected = content(weights_of(scaled, precision).load())
    transformer = weights.load()
    plain = content(transformer)
    shares = list(weights.change(transformer, Scale(scaled.name), 0))
    assert same(content(transformer), expected)
    assert not same(plain, expected)
    assert shares == sorted(shares)
    assert (shares[-1:] == [1.0]) or not kept_weights.made_slots(transformer, [scaled.name])
    finished(weights.change(transformer, None))
    assert same(content(transformer), plain)
    again = list(weights.change(transformer, Scale(scaled.name), 0))
    assert same(content(transformer), expected)
    assert not (keep and again), "it was made anew, though it lies on the disk"


def test_each_change_has_a_file_of_its_own_and_the_oldest_goes(quick_checkpoint: Path, tmp_path: Path) -> None:
    weights = weights_of(quick_checkpoint, "as_is", tmp_path)
    transformer, folder = weights.load(), tmp_path / "merged"
    for age, factor in enumerate((2.0, 3.0), start=1):
        finished(weights.change(transformer, Scale(LINEAR, factor)))
        (newest,) = folder.glob(f"*-{factor:g}-as_is_table-float32-*.safetensors")
        os.utime(newest, (age, age))
    assert not (tmp_path / "quantised").exists()
    size = newest.stat().st_size
    assert size < 2**20, "only the weight that is changed"
    finished(weights.change(transformer, Scale(LINEAR, 2.0)))  # the other one is the oldest now
    small = replace(weights, changed_limit_bytes=2 * size + 100)
    finished(small.change(transformer, Scale(LINEAR, 4.0)))
    assert sorted(file.name.split("-")[1] for file in folder.iterdir()) == ["2", "4"]
    too_small = replace(weights, changed_limit_bytes=size - 100)
    finished(too_small.change(transformer, Scale(LINEAR, 5.0)))
    assert torch.equal(transformer.get_parameter(LINEAR), 5 * weights.load().get_parameter(LINEAR))
    assert sorted(file.name.split("-")[1] for file in folder.iterdir()) == ["2", "4"]


def test_files_that_others_have_removed_or_have_in_use_are_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(("used", "old", "new"), start=1):
        (tmp_path / f"{name}.safetensors").write_bytes(bytes(100))
        os.utime(tmp_path / f"{name}.safetensors", (age, age))
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "elsewhere")
    unlink = Path.unlink

    def refuse(file: Path, missing_ok: bool = False) -> None:
        if file.name == "used.safetensors":
            raise PermissionError
        unlink(file, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    kept_weights.Keeping(tmp_path / "next.safetensors", limit_bytes=300).make_room(100)
    assert sorted(file.stem for file in tmp_path.iterdir()) == ["gone", "new", "used"]


def test_a_damaged_file_is_made_again(quick_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = weights_of(quick_checkpoint, "as_is", tmp_path)
    transformer = weights.load()
    finished(weights.change(transformer, Scale(LINEAR)))
    expected = content(transformer)
    (file,) = (tmp_path / "merged").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    finished(weights.change(transformer, Scale(LINEAR)))
    assert same(content(transformer), expected)
    assert file.read_bytes() == whole
    assert "is damaged" in caplog.text


def test_without_room_on_the_disk_ram_must_have_it(quick_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_of(quick_checkpoint, "as_is")
    transformer = weights.load()
    plain = content(transformer)
    monkeypatch.setattr(kept_weights, "read_ram", lambda: Ram(total=2**30, free=10**6))
    with pytest.raises(OutOfMemory, match="--lora-mode beside"):
        finished(weights.change(transformer, Scale(LINEAR)))
    finished(weights.change(transformer, None))
    assert same(content(transformer), plain)


def test_a_change_that_is_broken_off_leaves_nothing_on_the_disk(quick_checkpoint: Path, tmp_path: Path) -> None:
    weights = weights_of(quick_checkpoint, "int8", tmp_path)
    transformer = weights.load()
    plain = content(transformer)
    work = weights.change(transformer, Scale(LINEAR))
    next(work)
    work.close()
    assert not list((tmp_path / "merged").iterdir())
    finished(weights.change(transformer, None))
    assert same(content(transformer), plain)


def test_a_file_that_another_process_removes_at_once_is_made_in_memory(
    quick_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = weights_of(quick_checkpoint, "int8", tmp_path)
    expected = content(weights.load())
    shutil.rmtree(tmp_path / "quantised")
    monkeypatch.setattr(kept_weights, "_from_file", lambda *_: None)
    assert same(content(weights.load()), expected)


def test_made_weights_are_mapped_not_held(
    quick_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    weights = weights_of(quick_checkpoint, "int8", tmp_path)
    transformer = weights.load()
    (file,) = (tmp_path / "quantised").iterdir()
    assert "making the weights" in caplog.text
    mapped = {Path(each.path) for each in psutil.Process().memory_maps()}
    assert file in mapped
    del transformer
