"""What was encoded is there the next time; each change makes anew what it must and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_helper.engine import Engine
from diffusers_helper.media.video import write_segment
from diffusers_helper.models.load import choose_compute
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from diffusers_helper.training.cache import FORMS, KeptEncodings
from diffusers_helper.training.dataset import DataSet, Entry
from diffusers_helper.training.examples import Example, examples_of
from diffusers_helper.vae.codec import LatentPosterior

VALUES: dict[str, Callable[[], Any]] = {
    "text_encoder": lambda: (torch.randn(1, 5, 4), 2),
    "text_encoder_2": lambda: torch.randn(1, 4),
    "image_encoder": lambda: torch.randn(1, 3, 4).half(),
    "vae": lambda: LatentPosterior(torch.randn(1, 4, 2, 3, 3), torch.randn(1, 4, 2, 3, 3)),
}


@pytest.fixture(scope="module")
def checkpoint(pocket: Path) -> Checkpoint:
    return find_checkpoint(str(pocket), pocket)


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> Iterator[Engine]:
    with Engine.load(checkpoint) as engine:
        yield engine


def never() -> Any:
    raise AssertionError("it is made again")


@pytest.mark.parametrize("part", VALUES)
def test_the_same_comes_back(part: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    value, form = VALUES[part](), FORMS[part]
    first = KeptEncodings(tmp_path, checkpoint, choose_compute())(part, "key", lambda: value)
    again = KeptEncodings(tmp_path, checkpoint, choose_compute())(part, "key", never)
    for made in (first, again):
        found = form.tensors(made)
        assert form.plain(made) == form.plain(value)
        assert {name: each.dtype for name, each in found.items()} == {
            n: e.dtype for n, e in form.tensors(value).items()
        }
        assert all(torch.equal(each, form.tensors(value)[name]) for name, each in found.items())


def test_other_encoders_and_other_numbers_make_it_again(checkpoint: Checkpoint, pocket: Path, tmp_path: Path) -> None:
    """Of another checkpoint's parts only those that are others."""
    compute = choose_compute()
    KeptEncodings(tmp_path, checkpoint, compute)("vae", "key", VALUES["vae"])
    other = tmp_path / "vae"
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text("{}", encoding="utf-8")
    changed = replace(checkpoint, folders={**checkpoint.folders, "vae": other})
    swapped = replace(checkpoint, folders={**checkpoint.folders, "transformer": other})
    half = replace(compute, vae_dtype=torch.float16)
    found = [KeptEncodings(tmp_path, *asked) for asked in ((changed, compute), (checkpoint, half), (swapped, compute))]
    for kept in found:
        kept("vae", "key", VALUES["vae"])
    assert [kept.made for kept in found] == [1, 1, 0]


def test_a_damaged_file_is_made_again(checkpoint: Checkpoint, tmp_path: Path) -> None:
    KeptEncodings(tmp_path, checkpoint, choose_compute())("vae", "key", VALUES["vae"])
    (file,) = (tmp_path / "vae").glob("*.safetensors")
    whole = file.read_bytes()
    for content in (b"", whole[:-40], b"x" * 200):
        file.write_bytes(content)
        kept = KeptEncodings(tmp_path, checkpoint, choose_compute())
        kept("vae", "key", VALUES["vae"])
        assert (kept.made, kept.trouble) == (1, None)
        assert len(file.read_bytes()) == len(whole)


def test_a_full_disk_keeps_nothing_and_is_told_once(checkpoint: Checkpoint, small_disk: Path) -> None:
    kept = KeptEncodings(small_disk, checkpoint, choose_compute())
    for key in ("a", "b"):
        made = kept("vae", key, lambda: LatentPosterior(torch.ones(1, 16, 30, 9, 9), torch.ones(1)))
        assert float(made.mean.sum()) == 16 * 30 * 81
    assert "full" in str(kept.trouble)
    assert not list(small_disk.rglob("*.safetensors"))


class Counted:
    """What was made and what was found, by part."""

    def __init__(self, kept: KeptEncodings) -> None:
        self._kept, self.made = kept, Counter[str]()

    def __call__(self, part: str, key: str, make: Callable[[], Any]) -> Any:
        def counted() -> Any:
            self.made[part] += 1
            return make()

        return self._kept(part, key, counted)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name, shade in (("answer", 200), ("control", 90)):
        Image.fromarray(np.full((128, 128, 3), shade, np.uint8)).save(folder / f"{name}.png")
    write_segment(folder / "video.mp4", np.full((37, 128, 128, 3), 128, np.uint8), 30, 0)
    return folder


ONE_FRAME = {"image_directory": "-", "fp_1f_clean_indices": (0,), "resolution": (128, 128)}
PAIR = {"caption": "turns blue"}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, int]]] = {
    "nothing": ({}, {}, {}),
    "a place in time": ({"fp_1f_target_index": 3, "fp_1f_no_post": True}, {}, {}),
    "the caption": ({}, {"caption": "turns red"}, {"text_encoder": 1, "text_encoder_2": 1}),
    "the size": ({"resolution": (96, 160)}, {}, {"vae": 2, "image_encoder": 1}),
    "the answer": ({}, {"path": "video.png"}, {"vae": 1}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_anew_just_what_it_must(change: str, engine: Engine, files: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((128, 128, 3), 20, np.uint8)).save(files / "video.png")

    def encoded(of_set: dict[str, Any], of_entry: dict[str, Any]) -> Counter[str]:
        counted = Counted(KeptEncodings(tmp_path, engine.checkpoint, engine.compute))
        engine._encoders._caches = {part: type(cache)() for part, cache in engine._encoders._caches.items()}
        engine.keep_encodings(counted)
        given = {"path": "answer.png", **PAIR, **of_entry}
        entry = Entry(files / given["path"], given["caption"], (files / "control.png",))
        examples_of(entry, DataSet(**{**ONE_FRAME, **of_set}), engine, "f1")
        return counted.made

    of_set, of_entry, expected = CHANGES[change]
    assert encoded({}, {}) == {"text_encoder": 1, "text_encoder_2": 1, "image_encoder": 1, "vae": 2}
    assert encoded(of_set, of_entry) == expected


def test_examples_are_the_same_from_the_disk(engine: Engine, files: Path, tmp_path: Path) -> None:
    """Of a video as well."""
    found: list[Example] = []
    for _ in range(2):
        engine._encoders._caches = {part: type(cache)() for part, cache in engine._encoders._caches.items()}
        engine.keep_encodings(KeptEncodings(tmp_path, engine.checkpoint, engine.compute))
        found += examples_of(Entry(files / "video.mp4", "x"), DataSet(video_directory="-"), engine, "f1")
    first, again = found
    assert torch.equal(first.target, again.target)
    inputs, inputs_again = first.inputs(), again.inputs()
    assert inputs.keys() == inputs_again.keys()
    assert all(torch.equal(tensor, inputs_again[name]) for name, tensor in inputs.items())
