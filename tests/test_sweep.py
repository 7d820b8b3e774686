"""A sweep with one engine: each input is encoded once, every cell is the picture of its own request, and a sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from diffusers_helper import encoders
from diffusers_helper.engine import Engine
from diffusers_helper.errors import CancelRequested, InvalidRequest
from diffusers_helper.events import Cancelled, Finished, Plan, Step
from diffusers_helper.media.metadata import read_metadata
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request
from diffusers_helper.request.sweep import cells, read_axis
from diffusers_helper.sweep import cell_labels, sweep

from . import program

ENCODES = ("llama_features", "pooled_by_clip", "encode_picture_tokens", "encode_picture")


def requests(*pictures: Path, **flat: Any) -> dict[str, Any]:
    controls = [{"role": "control", "path": str(picture)} for picture in pictures]
    kind = {"kind": "one_frame", "one_frame_control_index": "0;10", "pictures": controls}
    return {**kind, "prompt": "a caption", "steps": 1, "step_cache": "off", "size": "128x128", "seed": 1, **flat}


def test_sixteen_pictures_encode_each_input_once(
    photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And sample one section each, no step more."""
    counted = {name: Mock(side_effect=getattr(encoders, name)) for name in ENCODES}
    for name, spy in counted.items():
        monkeypatch.setattr(encoders, name, spy)
    other = tmp_path / "other.png"
    Image.open(photograph).rotate(180).save(other)
    axes = [read_axis("target_index=1..4"), read_axis("seed=1..4")]
    made = [Request.parse(cell) for cell in cells(requests(photograph, other), axes)]
    sheet = tmp_path / "sheet.png"
    with Engine.load(find_checkpoint("pocket", tmp_path)) as engine:
        events = list(sweep(axes, made, engine, tmp_path / "outputs", sheet))
    counts = {name: spy.call_count for name, spy in counted.items()}
    assert counts == {"llama_features": 1, "pooled_by_clip": 1, "encode_picture_tokens": 2, "encode_picture": 2}
    assert sum(isinstance(event, Step) for event in events) == len(made) == 16
    assert [event.path for event in events if isinstance(event, Finished)] == [str(sheet)]
    pictures = [np.asarray(Image.open(tmp_path / f"sheet_{n:03}.png")) for n in range(1, 17)]
    assert len({picture.tobytes() for picture in pictures}) == 16
    with Image.open(sheet) as image:
        assert image.width == 4 * 128 + 5 * 6
    seeds = [read_metadata(tmp_path / f"sheet_{n:03}.png")["request"]["seed"] for n in (1, 2, 16)]
    assert seeds == [1, 2, 4]
    assert cell_labels(axes)[5] == "target_index 2, seed 2"


def test_a_sweep_that_is_stopped_ends_there(photograph: Path, tmp_path: Path) -> None:
    axes = [read_axis("seed=1..3")]
    made = [Request.parse(cell) for cell in cells(requests(photograph, photograph), axes)]
    with Engine.load(find_checkpoint("pocket", tmp_path)) as engine:
        events = sweep(axes, made, engine, tmp_path / "outputs", tmp_path / "sheet.png")
        plans = 0
        for event in events:
            plans += isinstance(event, Plan)
            if plans == 2:
                break
        assert isinstance(events.throw(CancelRequested()), Cancelled)
        assert list(events) == []
    assert [file.name for file in tmp_path.glob("*.png")] == ["sheet_001.png"]


def test_a_given_picture_is_not_written_over(photograph: Path, tmp_path: Path) -> None:
    """Nor is anything made of one that was."""
    given = tmp_path / "sheet_002.png"
    Image.open(photograph).save(given)
    before, axes = given.read_bytes(), [read_axis("seed=1..3")]
    made = [Request.parse(cell) for cell in cells(requests(given, photograph), axes)]
    engine = Mock(checkpoint=find_checkpoint("pocket", tmp_path))
    with pytest.raises(InvalidRequest, match=r"sheet_002\.png is one of the given pictures; give another name"):
        list(sweep(axes, made, engine, tmp_path / "outputs", tmp_path / "sheet.png"))
    assert given.read_bytes() == before
    assert not (tmp_path / "sheet_001.png").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--sweep", "frames=1"), "sweep: 'frames' is nothing to go through"),
        (("--rope-batch", "0"), "--rope-batch: 0 is not allowed"),
        (("--rope-batch", "2", "--mode", "kisekaeichi"), "the latent window changes nothing"),
        (("--sweep", "target_index=60..66"), "one_frame_target_index: 65 is not allowed"),
        (("--sweep", "seed=1,2", "--save-latents", "a.safetensors"), "--save-latents keeps the latents of one picture"),
        (("--sweep", "size=10x10,128x128"), "size: '10x10' is not made by pocket"),
        (("--control-mask", "a.png,b.png,c.png"), "3 masks are given for 2 pictures"),
        (("--one-frame", "latent_index=3"), "a single picture has one latent, number 0"),
        (("--one-frame-embedding", "control_3"), "there is no picture 3"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything(
    flags: tuple[str, ...], said: str, photograph: Path, pocket: Path, tmp_path: Path
) -> None:
    common = ("--image", f"{photograph},{photograph}", "--mode", "oichi", "--checkpoint", str(pocket))
    done = program.run(tmp_path, "one-frame", *common, "--steps", "1", *flags)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not list((tmp_path / "outputs").rglob("*.png"))


def test_a_rope_batch_from_the_command_line(photograph: Path, pocket: Path, tmp_path: Path) -> None:
    """Without a name the sheet goes into the output folder, its pictures beside it."""
    flags = ("--steps", "1", "--seed", "3", "--size", "128x128", "--rope-batch", "2", "--one-frame", "latent_index=0")
    done = program.run(tmp_path, "one-frame", "--image", str(photograph), "--checkpoint", str(pocket), *flags)
    assert done.returncode == 0, done.stderr
    sheet, *pictures = sorted((tmp_path / "outputs").rglob("*.png"), key=lambda file: len(file.name))
    assert [file.name for file in sorted(pictures)] == [f"{sheet.stem}_00{n}.png" for n in (1, 2)]
    windows = [read_metadata(file)["request"]["latent_window"] for file in sorted(pictures)]
    assert windows == [9, 10]
