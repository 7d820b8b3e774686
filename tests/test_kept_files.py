"""Files as earlier versions wrote them, kept in tests/kept for ever: opened, told, gone on with.

The queue's file is in tests/jobs.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished, Started
from diffusers_helper.generate import resume
from diffusers_helper.media.video import probe
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.presets import PresetStore
from diffusers_helper.recall import recall
from diffusers_helper.request import Request
from diffusers_helper.vae import decoders
from diffusers_helper.workfolder import WorkFolder

EVERY = Path(__file__).parent / "kept"
KEPT = EVERY / "v1"
RECALLED = {
    "prompt": "the camera pans left", "negative_prompt": "", "seed": 7, "seconds": 1.0, "steps": 3,
    "distilled_guidance": 10.0, "real_cfg": 1.0, "cfg_rescale": 0.0, "latent_window": 9, "kind": "f1",
    "step_cache": "off", "output": "mp4", "mp4_crf": 20, "size": None, "decoding": "lean",
    "preserved_memory_gb": 6.0, "loras": (),
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine.load(find_checkpoint("pocket", tmp_path_factory.mktemp("models"))) as made:
        yield made


@pytest.mark.parametrize("file", ["video.mp4", "picture.png", "request.json"])
def test_results_tell_their_settings(file: str) -> None:
    """A recipe makes a new video, decoded as today, without LoRAs where it names none; a request may be of one that has
    begun."""
    found = recall(KEPT / file)
    of_result, of_request = (
        {key: RECALLED[key] for key in RECALLED if key != other} for other in ("decoding", "loras")
    )
    expected = {**of_request, "decoding": "reference"} if file == "request.json" else of_result
    assert (found.source, found.fields, found.not_taken) == ("framepack", expected, ())
    assert found.checkpoint == ("" if file == "request.json" else "pocket")


def test_a_request_is_read() -> None:
    text = (KEPT / "request.json").read_text()
    request = Request.from_json(text)
    unscaled = {"rope_scaling_factor": 1.0, "rope_scaling_timestep_threshold": 400.0, "lora_mode": "auto"}
    told = {**RECALLED, **unscaled, "mp4_pixels": "8bit", "decoding": "reference"}
    assert request.flat() == {"picture": json.loads(text)["picture"], **told}
    assert Request.from_json(request.to_json()) == request


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "Kept one",
            {
                "prompt": "a caption", "negative_prompt": "x", "seed": 2**60, "seconds": 3.0, "steps": 12, "kind": "f1",
                "step_cache": "teacache", "teacache_threshold": 0.3, "output": "mp4", "mp4_crf": 22,
                "size": "160x96", "preserved_memory_gb": 7.5,
            },
        ),
        ("Without cache", {"step_cache": "off"}),
    ],
)  # fmt: skip
def test_presets_are_read_and_kept_anew(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    store = PresetStore(Path(shutil.copytree(KEPT / "presets", tmp_path / "presets")))
    assert store.problems() == []
    assert store.load(name).values == values
    anew = PresetStore(tmp_path / "anew")
    anew.import_text(store.export_text(name))
    assert anew.load(name).values == values


def test_where_pictures_stood_in_time_is_kept() -> None:
    """Version 3 had it beside each picture, and so not in what a PNG tells."""
    request = Request.from_json((EVERY / "v3" / "request.json").read_text())
    told = {"target_index": 1, "control_index": "0;10", "post": False, "history_2x": True, "history_4x": True}
    assert request.kind.model_dump() == {**told, "embedding": "start"}
    assert [(picture.role, picture.mask) for picture in request.pictures] == [
        ("start", None), ("control", None), ("control", "m.png")
    ]  # fmt: skip
    assert recall(EVERY / "v3" / "picture.png").fields["one_frame_target_index"] == 1


def work_folder(kind: str, tmp_path: Path, version: str = "v1") -> Path:
    """A copy of the kept one, at its place in an output folder."""
    kept = EVERY / version / f"work_folder_{kind}"
    folder = tmp_path / "outputs" / json.loads((kept / "job.json").read_text())["folder"]
    return Path(shutil.copytree(kept, folder))


@pytest.mark.parametrize("kind", ["framepack", "f1"])
def test_a_work_folder_is_opened(kind: str, tmp_path: Path) -> None:
    folder = WorkFolder.reopen(work_folder(kind, tmp_path))
    flat = folder.request.flat()
    assert (flat["kind"], flat["step_cache"], flat["teacache_threshold"]) == (kind, "teacache", 0.25)
    (saved,) = folder.load_sections()
    assert saved.latents.shape[2] == 9
    assert [picture.pixels.shape for picture in folder.load_pictures()] == [(128, 128, 3)]


def grey(vae: Any, latents: Tensor, tile: int = 0) -> Tensor:
    """In the place of the original's way to decode, which takes ten seconds: as many frames, of the same size."""
    _, _, count, height, width = latents.shape
    return torch.zeros(1, 3, 4 * count - 3, 8 * height, 8 * width, dtype=torch.float16)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_work_folder_is_gone_on_with(
    version: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it has begun: decoded as the original does, since a part of its frames is."""
    decoded = Mock(side_effect=grey)
    monkeypatch.setattr(decoders, "decode_clip", decoded)
    folder = work_folder("f1", tmp_path, version)
    assert WorkFolder.reopen(folder).request.decoding == "reference"
    events = list(resume(folder, engine))
    assert isinstance(events[0], Started)
    assert events[0].sections_done == 1
    assert isinstance(events[-1], Finished), events[-1]
    assert Path(events[-1].path or "") == folder.with_suffix(".mp4")
    assert probe(folder.with_suffix(".mp4")).frames == 73
    assert recall(folder.with_suffix(".mp4")).fields["kind"] == "f1"
    assert decoded.call_count == 2, "the saved section again, and the one that was missing"
    assert not folder.exists()
