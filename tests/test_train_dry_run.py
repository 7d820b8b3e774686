"""``train --dry-run`` on the pocket: what would be learnt is told, and nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusers_helper.engine import Engine
from diffusers_helper.errors import CancelRequested, InvalidRequest
from diffusers_helper.events import Event, Notice, Rehearsed
from diffusers_helper.media.video import write_segment
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.training.modules import trainable
from diffusers_helper.training.rehearsal import rehearse

from . import program
from .blue import blue_set, training

BLUE = (20, 40, 200)


@pytest.fixture
def engine(pocket: Path, tmp_path: Path) -> Iterator[Engine]:
    with Engine.load(find_checkpoint(str(pocket), tmp_path)) as loaded:
        yield loaded


def told(events: list[Event]) -> Rehearsed:
    (found,) = (event for event in events if isinstance(event, Rehearsed))
    return found


def test_the_command_tells_all_and_writes_a_sheet_alone(tmp_path: Path, pocket: Path) -> None:
    data_sets = blue_set(tmp_path / "data", more=["num_repeats=2"])
    out = tmp_path / "made"
    out.mkdir()
    given = ("train", "--data", str(data_sets), "--out", str(out / "a.safetensors"), "--checkpoint", str(pocket))
    flags = ("--dry-run", "--max-train-epochs", "3", "--gradient-accumulation-steps", "2")
    done = program.run(tmp_path, *given, *flags)
    assert done.returncode == 0, done.stderr
    for words in (
        "examples: 4 (4 of 128x128)",
        "length: 6 steps, 3 epochs",
        "time: about",
        "caption: everything turns blue",
        "modules,",
    ):
        assert words in done.stderr
    assert [file.name for file in out.iterdir()] == ["a.sheet.png"]


def test_the_sheet_shows_what_is_seen(tmp_path: Path, engine: Engine) -> None:
    """A line for each picture, with its control picture and the mask of that; then some frames of a video."""
    data_sets = blue_set(tmp_path, ["coffee"])
    alpha = np.zeros((128, 128, 4), np.uint8) + np.array([*BLUE, 255], np.uint8)
    alpha[:, :64, 3] = 0
    Image.fromarray(alpha).save(tmp_path / "ctl" / "coffee.png")
    (tmp_path / "vid").mkdir()
    frames = np.repeat(np.arange(19, dtype=np.uint8)[:, None, None, None] * 13, 3, axis=3)
    write_segment(tmp_path / "vid" / "v.mp4", np.broadcast_to(frames, (19, 128, 128, 3)), 30, 0)
    (tmp_path / "vid" / "v.txt").write_text("it brightens", encoding="utf-8")
    video = '\n[[datasets]]\nvideo_directory="vid"\nfp_latent_window_size=2\nresolution=[128, 128]\n'
    data_sets.write_text(data_sets.read_text(encoding="utf-8") + video, encoding="utf-8")
    made = training(data_sets, "--out", str(tmp_path / "a.safetensors"), "--network-dim", "2", "--steps", "6")
    found = told(list(rehearse(made, engine)))
    assert (found.examples, found.sizes, found.held_out) == (3, {"128x128": 3}, 0)
    assert (found.steps, found.epochs) == (6, 2.0)
    assert found.captions == ["everything turns blue", "it brightens"]
    shapes = [linear.weight.shape for linear in trainable(engine.parts.transformer).values()]
    assert (found.modules, found.parameters) == (len(shapes), sum(2 * sum(shape) for shape in shapes))
    assert found.step_seconds > 0
    sheet = np.asarray(Image.open(found.path))
    cells = [[cell(sheet, row, column) for column in range(5)] for row in range(2)]
    assert np.abs(cells[0][1][:, 68:].mean((0, 1)) - BLUE).max() < 2, (
        "the control picture, white where it is transparent"
    )
    assert (cells[0][2][:, :60].max(), cells[0][2][:, 68:].min()) == (0, 255), "its mask"
    shades = [float(each.mean()) for each in cells[1]]
    assert shades == [pytest.approx(13 * number, abs=4) for number in (0, 4, 8, 12, 16)]


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    """The picture at a place of the sheet, 128 by 128, under its label."""
    height = (sheet.shape[0] - 6) // 2
    bottom, left = 6 + (row + 1) * height - 6, 6 + column * 134
    return sheet[bottom - 128 : bottom, left : left + 128]


def test_what_is_told_is_what_is_trained(tmp_path: Path, engine: Engine) -> None:
    """The same files are held out, the same are left out."""
    data_sets = blue_set(tmp_path, ["coffee", "rocket", "astronaut"])
    (tmp_path / "img" / "rocket.png").write_bytes(b"no picture")
    flags = ("--out", str(tmp_path / "a.safetensors"), "--validation-split", "0.3", "--skip-broken-files")
    events = list(rehearse(training(data_sets, *flags), engine))
    (notice,) = (event.message for event in events if isinstance(event, Notice))
    assert notice.startswith("left out: ")
    assert "rocket.png" in notice
    found = told(events)
    assert found.examples + found.held_out == 2


def test_a_stop_writes_nothing(tmp_path: Path, engine: Engine) -> None:
    data_sets = blue_set(tmp_path)
    made = training(data_sets, "--out", str(tmp_path / "a.safetensors"), "--lr-warmup-steps", "3")
    events = rehearse(made, engine)
    next(events)
    last: Any = events.throw(CancelRequested())
    assert last.message == "stopped; nothing was written"
    assert list(events) == []
    assert not list(tmp_path.glob("*.png"))


def test_a_kind_that_is_not_made_is_refused(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v.mp4").touch()
    (tmp_path / "v.txt").touch()
    monkeypatch.setattr(engine, "checkpoint", type("Checkpoint", (), {"kinds": ("f1",), "name": "only_f1"}))
    made = training(tmp_path, "--kind", "framepack", "--out", str(tmp_path / "a.safetensors"))
    with pytest.raises(InvalidRequest, match="--kind: 'framepack' is not made by checkpoint only_f1"):
        list(rehearse(made, engine))
