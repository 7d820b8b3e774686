"""A work folder that was moved, alone or with all around it: its files are found, and its results have a place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusers_helper.errors import OutputFailed, UnusableResumeFolder
from diffusers_helper.events import Event, Finished, Notice, Started, Step
from diffusers_helper.generate import generate, resume
from diffusers_helper.media.fit import Fitted
from diffusers_helper.media.video import read_frames
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request
from diffusers_helper.words import Texts
from diffusers_helper.workfolder import FORMAT, WorkFolder

from .moving import moved_deeper, moved_up, moved_with_the_program, of_other_bytes, renamed
from .older import as_schema_1
from .parity.engine import PackEngine

PIXELS = np.full((48, 64, 3), 99, np.uint8)
Begin = Callable[..., WorkFolder]


def in_format(number: int, folder: WorkFolder) -> None:
    """Write its job.json as the program did that knew this format; the first one kept whole paths."""
    content = json.loads((folder.path / "job.json").read_bytes())
    content |= {"format": number, "request": as_schema_1(folder.request)}
    if number == 1:
        del content["folder"]
        content |= folder.manifest.results()
    (folder.path / "job.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(params=[1, 2, FORMAT])
def begin(request: pytest.FixtureRequest, tmp_path: Path) -> Begin:
    """``begin(result, latents_result)``: a new work folder in home/outputs, kept in an older format or today's."""

    def new(result: Path | None = None, latents_result: Path | None = None) -> WorkFolder:
        asked = Request.parse({"picture": "photo.png"})
        made_by = PackEngine("run_i2v").checkpoint, "parity"
        folder = WorkFolder.create(
            tmp_path / "home/outputs", asked, *made_by, [Fitted(PIXELS)], 0, result, latents_result
        )
        if request.param < FORMAT:
            in_format(request.param, folder)
        return folder

    (tmp_path / "home" / "outputs").mkdir(parents=True)
    return new


def moved_twice(home: Path) -> Path:
    return (home / "outputs").rename(home / "first").rename(home / "second")


def copied(home: Path) -> Path:
    return Path(shutil.copytree(home / "outputs", home / "copy"))


def linked(home: Path) -> Path:
    (home / "link").symlink_to("outputs")
    return home / "link"


def linked_from_where_it_was(home: Path) -> Path:
    (home / "outputs").rename(home / "there")
    (home / "outputs").symlink_to("there")
    return home / "outputs"


def left(home: Path) -> Path:
    return home / "outputs"


@pytest.mark.parametrize(
    "move",
    [
        renamed,
        moved_deeper,
        moved_up,
        moved_with_the_program,
        of_other_bytes,
        moved_twice,
        copied,
        linked,
        linked_from_where_it_was,
        left,
    ],
)
def test_results_move_with_the_output_folder(begin: Begin, move: Callable[[Path], Path], tmp_path: Path) -> None:
    made = begin(latents_result=tmp_path / "home/outputs/l.safetensors")
    outputs = move(tmp_path / "home")
    folder = WorkFolder.reopen(outputs / made.path.parent.name / made.path.name)
    day = outputs / made.path.parent.name
    assert folder.manifest.results() == {
        "result": str(day / f"{made.path.name}.mp4"),
        "picture_result": str(day / f"{made.path.name}.png"),
        "latents_result": str(outputs / "l.safetensors"),
    }
    assert folder.notices == []
    assert np.array_equal(folder.load_pictures()[0].pixels, PIXELS)


def test_a_folder_is_named_as_seen_from_where_one_works(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    made = begin()
    outputs = made.path.parents[1]
    for place, name in ((made.path, "."), (made.path.parent, made.path.name), (outputs / "..", "outputs/../outputs")):
        monkeypatch.chdir(place)
        seen = Path(name, *made.path.parts[-2:]) if ".." in name else Path(name)
        assert WorkFolder.reopen(seen).manifest.result == str(made.path.with_suffix(".mp4"))


ALONE = {
    "elsewhere": "context/work",
    "under its own name": "context/{name}",
    "one up": "home/outputs/{name}",
    "renamed": "home/outputs/{day}/renamed",
    "a name with dots": "context/a.b.c",
    "a name of a video": "context/cat.mp4",
    "another day": "home/outputs/1999-12-31/{name}",
    "other letters": "context/動画 ☕",
    "other bytes": "context/\udcff",
    "the top": "{name}",
}


@pytest.mark.parametrize("where", ALONE)
def test_a_folder_that_was_moved_alone_has_its_results_beside_it(begin: Begin, where: str, tmp_path: Path) -> None:
    made = begin(latents_result=tmp_path / "home/outputs/l.safetensors")
    place = tmp_path / ALONE[where].format(name=made.path.name, day=made.path.parent.name)
    place.parent.mkdir(exist_ok=True)
    made.path.rename(place)
    folder = WorkFolder.reopen(place)
    suffixes = {"result": ".mp4", "picture_result": ".png", "latents_result": ".safetensors"}
    assert folder.manifest.results() == {name: f"{place}{suffix}" for name, suffix in suffixes.items()}
    (notice,) = folder.notices
    assert f"{place}.mp4" in str(notice)
    assert np.array_equal(folder.load_pictures()[0].pixels, PIXELS)


def test_a_place_in_another_folder_stays_where_it_is(begin: Begin, tmp_path: Path) -> None:
    wanted = {"result": tmp_path / "v.mp4", "latents_result": tmp_path / "l.safetensors"}
    made = begin(**wanted)
    outputs = renamed(tmp_path / "home")
    folder = WorkFolder.reopen(outputs / made.path.parent.name / made.path.name)
    assert folder.manifest.results() == {name: str(place) for name, place in wanted.items()}
    assert folder.notices == []


@pytest.mark.parametrize("obstacle", ["gone", "a file in the way", "a folder of that name"])
def test_a_place_that_is_out_of_reach_is_given_up_for_one_beside_the_folder(
    begin: Begin, obstacle: str, tmp_path: Path
) -> None:
    usb = tmp_path / "usb"
    usb.mkdir()
    made = begin(usb / "v.mp4")
    if obstacle == "a folder of that name":
        (usb / "v.mp4").mkdir()
    else:
        usb.rename(tmp_path / "unplugged")
    if obstacle == "a file in the way":
        usb.touch()
    folder = WorkFolder.reopen(made.path)
    assert folder.manifest.result == f"{made.path}.mp4"
    (notice,) = folder.notices
    assert str(usb / "v.mp4") in str(notice)
    assert "out of reach" in str(notice)


def test_results_named_in_the_output_folder_move_with_it(tmp_path: Path) -> None:
    """Of an older job.json this cannot be told."""
    outputs = tmp_path / "home" / "outputs"
    outputs.mkdir(parents=True)
    asked, checkpoint = Request.parse({"picture": "photo.png"}), PackEngine("run_i2v").checkpoint
    results = outputs / "cat.mp4", outputs / "cat.safetensors"
    made = WorkFolder.create(outputs, asked, checkpoint, "parity", [Fitted(PIXELS)], 0, *results)
    there = renamed(tmp_path / "home")
    folder = WorkFolder.reopen(there / made.path.parent.name / made.path.name)
    assert folder.manifest.result == str(there / "cat.mp4")
    assert folder.manifest.latents_result == str(there / "cat.safetensors")


def test_no_path_of_the_output_folder_stands_in_the_file(begin: Begin, tmp_path: Path) -> None:
    folder = WorkFolder.reopen(begin().path)
    kept = json.dumps(folder.manifest.as_kept(tmp_path / "home" / "outputs").results())
    assert str(tmp_path) not in kept


@pytest.mark.parametrize(
    "change",
    [
        {"result": "../../../.bashrc"},
        {"result": "/etc/passwd"},
        {"picture_result": "2026-01-31/x.svg"},
        {"latents_result": "../authorized_keys"},
        {"result": ""},
        {"result": ".mp4"},
        {"result": "2026-01-31/x\0.mp4"},
        {"latents_result": "x\0/l.safetensors"},
        {"result": None},
        {"folder": 5},
        {"format": 0},
        {"format": FORMAT + 1},
    ],
)
def test_a_crafted_file_names_no_other_files(begin: Begin, change: dict[str, Any]) -> None:
    made = begin()
    file = made.path / "job.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **change}), encoding="utf-8")
    with pytest.raises(UnusableResumeFolder, match=r"job\.json"):
        WorkFolder.reopen(made.path)


def test_a_checkpoint_of_ours_is_found_after_the_program_was_moved(begin: Begin, tmp_path: Path) -> None:
    made = begin()
    file = made.path / "job.json"
    source = find_checkpoint("pocket", tmp_path).source
    kept = {"format": 1, "checkpoint": "pocket", "checkpoint_source": "/gone/checkpoints/pocket"}
    content = json.loads(file.read_bytes())
    file.write_text(json.dumps({**content, **(kept if content["format"] == 1 else {"checkpoint_source": source})}))
    found = find_checkpoint(WorkFolder.reopen(made.path).manifest.checkpoint_source, tmp_path)
    assert found.folders["vae"].is_dir()
    assert str(found.folders["vae"]) not in file.read_text()


def test_results_are_tried_before_anything_is_written(tmp_path: Path) -> None:
    asked, checkpoint = Request.parse({"picture": "photo.png"}), PackEngine("run_i2v").checkpoint
    for places in ((tmp_path / "no" / "v.mp4", None), (None, tmp_path / "no" / "l.safetensors")):
        with pytest.raises(OutputFailed, match="its folder does not exist"):
            WorkFolder.create(tmp_path / "outputs", asked, checkpoint, "parity", [Fitted(PIXELS)], 0, *places)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def asked(tmp_path: Path) -> Request:
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "photo.png")
    return Request.parse({"picture": str(tmp_path / "photo.png"), "seconds": 2.4, "steps": 2})


def begun(asked: Request, outputs: Path) -> Path:
    """The work folder of a run that was broken off in its second section."""
    events = generate(asked, PackEngine("run_i2v"), outputs)
    folder = ""
    for event in events:
        folder = event.folder if isinstance(event, Started) else folder
        if isinstance(event, Step) and event.section == 2:
            break
    events.close()  # type: ignore[attr-defined]
    return Path(folder)


def test_a_moved_run_goes_on_to_the_same_frames(asked: Request, tmp_path: Path) -> None:
    unbroken = list(generate(asked, PackEngine("run_i2v"), tmp_path / "other"))[-1]
    folder = begun(asked, tmp_path / "outputs")
    outputs = (tmp_path / "outputs").rename(tmp_path / "moved")
    told = list(resume(outputs / folder.parent.name / folder.name, PackEngine("run_i2v")))
    assert sections_done(told) == 1
    assert [event.message for event in told if isinstance(event, Notice)] == ["Step cache: TeaCache, threshold 0.15."]
    assert path_of(told) == outputs / folder.parent.name / f"{folder.name}.mp4"
    assert isinstance(unbroken, Finished)
    assert np.array_equal(read_frames(path_of(told)), read_frames(Path(unbroken.path or "")))
    assert not (tmp_path / "outputs").exists()


def test_a_run_whose_folder_was_taken_away_says_where_its_video_goes(asked: Request, tmp_path: Path) -> None:
    folder = begun(asked, tmp_path / "outputs").rename(tmp_path / "work")
    told = list(resume(folder, PackEngine("run_i2v")))
    assert sections_done(told) == 1
    assert any(str(tmp_path / "work.mp4") in event.message for event in told if isinstance(event, Notice))
    assert path_of(told) == tmp_path / "work.mp4"
    assert len(read_frames(path_of(told))) == 73


def test_why_a_kept_picture_cannot_be_used_is_told_in_each_language(begin: Begin) -> None:
    folder = begin()
    (folder.path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    with pytest.raises(UnusableResumeFolder) as caught:
        folder.load_pictures()
    damaged = "The picture 'picture.png' is damaged or incomplete ("
    assert str(caught.value).startswith(f"{folder.path} is damaged: {damaged}")
    for language, words in {
        "ja": "画像 'picture.png' は壊れているか不完全です（",
        "zh": "图片 'picture.png' 已损坏或不完整（",
    }.items():
        assert words in Texts(language).said(caught.value.said)


def sections_done(told: list[Event]) -> int:
    return next(event.sections_done for event in told if isinstance(event, Started))


def path_of(told: list[Event]) -> Path:
    last = told[-1]
    assert isinstance(last, Finished)
    return Path(last.path or "")
