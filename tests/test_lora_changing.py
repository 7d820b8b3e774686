"""LoRAs that go from one weight to another in the course of a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished, Notice
from diffusers_helper.generate import generate
from diffusers_helper.lora.beside import BesideLinears
from diffusers_helper.lora.reading import StoredAdapters
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from diffusers_helper.request import Request

from .test_lora_generate import ask, engine, put, run, tensors


@pytest.fixture(scope="module")
def checkpoint(quick_checkpoint: Path) -> Checkpoint:
    return find_checkpoint(str(quick_checkpoint), quick_checkpoint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "lora"


@pytest.fixture
def made(checkpoint: Checkpoint, folder: Path) -> Iterator[Engine]:
    with engine(checkpoint, folder) as loaded:
        yield loaded


@pytest.mark.parametrize("kind", ["f1", "framepack"])
@pytest.mark.parametrize("table", [True, False])
def test_weights_go_from_section_to_section_without_reading_anything(
    kind: str,
    table: bool,
    checkpoint: Checkpoint,
    folder: Path,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From nothing to 1 in three sections. The one that is made first shows what a constant weight gives."""
    content = tensors(checkpoint)
    put(folder / "style.safetensors", content)
    used, read = list[float](), list[str]()
    attach, getitem = BesideLinears.attach, StoredAdapters.__getitem__
    monkeypatch.setattr(BesideLinears, "attach", lambda s, given: (used.extend(w for *_, w in given), attach(s, given)))
    monkeypatch.setattr(StoredAdapters, "__getitem__", lambda s, name: (read.append(name), getitem(s, name))[1])
    asked = {"kind": kind, "seconds": 3.6, "steps": 1}
    first, weight = (slice(1, 10), 0.0) if kind == "f1" else (slice(-9, None), 1.0)
    with engine(checkpoint, folder, table=table) as loaded:
        expected = latents(ask(picture, folder, ("style.safetensors", weight), **asked), loaded, tmp_path)
        used.clear()
        read.clear()
        constant = ask(picture, folder, ("style.safetensors", 0.0), **asked).model_dump(mode="json")
        changing = Request.from_data({**constant, "loras": [{**constant["loras"][0], "weight_at_end": 1.0}]})
        found = latents(changing, loaded, tmp_path)
        assert used == ([0.0, 0.0, 0.5, 1.0] if kind == "f1" else [0.0, 1.0, 0.5, 0.0])
        assert len(read) == (len(content) // 2 if kind == "f1" else 0), "once for each linear, or it was there already"
        assert torch.equal(found[:, :, first], expected[:, :, first])
        assert not torch.equal(found, expected)


def test_two_weights_in_one_section_are_told(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    put(folder / "style.safetensors", tensors(checkpoint, only="ff"))
    given = ask(picture, folder, ("style.safetensors", 1.0)).model_dump(mode="json")
    changing = Request.from_data({**given, "loras": [{**given["loras"][0], "weight_at_end": 0.5}]})
    _, events = run(changing, made, tmp_path)
    assert any("keeps the first weight" in event.message for event in events if isinstance(event, Notice))


def latents(request: Request, loaded: Engine, place: Path) -> torch.Tensor:
    """[1, C, T, H, W] of the whole video."""
    file = place / "latents.safetensors"
    assert isinstance(list(generate(request, loaded, place, latents_result=file))[-1], Finished)
    return load_file(file)["latents"]
