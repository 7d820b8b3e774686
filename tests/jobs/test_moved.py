"""An output folder that was moved, renamed or copied: its videos are shown and its jobs go on. Also one with links."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import OutputFailed
from diffusers_helper.events import SectionDone
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.store import FILE, VERSION
from diffusers_helper.media.video import probe
from diffusers_helper.request import Request
from tests.jobs_support import ScriptedExecutor, ended, make_picture, make_request, working
from tests.moving import moved_deeper, moved_up, moved_with_the_program, of_other_bytes, renamed
from tests.older import as_schema_1

DONE, BROKEN, WAITING = 1, 2, 3


def fill(outputs: Path) -> None:
    """A finished job, one that was broken off after a section, and one that waits; their picture is gone."""
    queue = JobQueue(outputs)
    request = make_request(make_picture(outputs.parent))
    with working(queue, ScriptedExecutor(outputs)):
        ended(queue, queue.add(request).id)

    def breaks(event: object) -> None:
        if isinstance(event, SectionDone):
            raise OutputFailed("the disk is full")

    queue.add(request)
    with working(queue, ScriptedExecutor(outputs, breaks)):
        ended(queue, BROKEN)
    queue.add(request)
    queue.close()
    Path(request.shown_picture).unlink()


def in_version_1(outputs: Path) -> None:
    """Write the jobs as the program did that kept whole paths."""
    with closing(sqlite3.connect(outputs / ".framepack" / FILE)) as file:
        for job, *texts in file.execute("SELECT id, request, progress FROM job").fetchall():
            request = _whole(as_schema_1(Request.from_json(texts[0])), outputs)
            progress = _whole(json.loads(texts[1]), outputs)
            file.execute("UPDATE job SET request = ?, progress = ? WHERE id = ?", (request, progress, job))
        for column in ("checkpoint", "executor", "twin", "batch", "work"):
            file.execute(f"ALTER TABLE job DROP COLUMN {column}")
        file.execute("PRAGMA user_version = 1")
        file.commit()


def _whole(fields: dict[str, Any], outputs: Path) -> str:
    def whole(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {inner: whole(inner, each) for inner, each in value.items()}
        if name not in ("picture", "path", "folder") or not value:
            return value
        assert not Path(value).is_absolute()
        return str(outputs / value)

    return json.dumps(whole("", fields))


@pytest.fixture(scope="module", params=[1, 2])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of ``outputs``, whose queue is kept in version 1 or 2. Not to be changed."""
    home = tmp_path_factory.mktemp("filled") / "home"
    home.mkdir()
    fill(home / "outputs")
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A home of one's own. It says of itself that it was filled there."""
    home = Path(shutil.copytree(filled, tmp_path / "home"))
    if request.node.callspec.params["filled"] == 1:
        in_version_1(home / "outputs")
    return home


def copied(home: Path) -> Path:
    return Path(shutil.copytree(home / "outputs", home / "copy"))


def copied_beside_its_empty_place(home: Path) -> Path:
    there = (home / "outputs").rename(home / "there")
    (home / "outputs").mkdir()
    return there


def linked_from_where_it_was(home: Path) -> Path:
    (home / "outputs").rename(home / "there")
    (home / "outputs").symlink_to("there")
    return home / "outputs"


def linked(home: Path) -> Path:
    (home / "link").symlink_to("outputs")
    return home / "link"


def moved_twice(home: Path) -> Path:
    there = (home / "outputs").rename(home / "first")
    JobQueue(there).close()
    return there.rename(home / "second")


def left(home: Path) -> Path:
    return home / "outputs"


MOVES = [
    renamed,
    moved_deeper,
    moved_up,
    moved_with_the_program,
    of_other_bytes,
    copied,
    copied_beside_its_empty_place,
    linked_from_where_it_was,
    linked,
    moved_twice,
    left,
]


@pytest.mark.parametrize("move", MOVES)
def test_a_moved_folder_shows_its_videos_and_goes_on(home: Path, move: Callable[[Path], Path]) -> None:
    outputs = move(home)
    queue = JobQueue(outputs)
    assert queue.notices == ()
    for job in (DONE, BROKEN, WAITING):
        assert queue.picture(job).is_file()
        assert queue.thumbnail(job).is_file()
    assert [outputs in place.parents for place in (queue.picture(WAITING), queue.result(DONE))] == [True, True]
    assert probe(queue.result(DONE)).frames == 73
    assert queue.go_on(BROKEN).progress.sections_done == 1
    executor = ScriptedExecutor(outputs)
    with working(queue, executor):
        assert [ended(queue, job).state for job in (BROKEN, WAITING)] == ["done", "done"]
    assert {folder.parts[:-2] for _, folder in executor.submitted if folder} == {outputs.parts}
    assert all(outputs in queue.result(job).parents for job in (BROKEN, WAITING))
    queue.close()


@pytest.mark.parametrize("move", MOVES)
def test_what_is_deleted_after_a_move_is_what_was_moved(home: Path, move: Callable[[Path], Path]) -> None:
    outputs = move(home)
    queue = JobQueue(outputs)
    unfinished = Path(queue.job(BROKEN).progress.folder or "")
    assert unfinished.is_dir()
    queue.trash(DONE)
    queue.remove(BROKEN)
    assert sorted(file.suffix for file in (outputs / "trash").iterdir()) == [".mp4", ".png"]
    assert not unfinished.exists()
    assert [job.id for job in queue.jobs()] == [WAITING]
    queue.close()
    if move is copied:
        assert len(list((home / "outputs").rglob("*.mp4"))) == 2, "the other one keeps its files"


def test_the_file_names_no_place_outside_of_the_folder(home: Path) -> None:
    JobQueue(home / "outputs").close()
    with closing(sqlite3.connect(home / "outputs" / ".framepack" / FILE)) as file:
        kept = str(file.execute("SELECT request, progress FROM job").fetchall())
        assert file.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert str(home) not in kept
    assert ".framepack/pictures/" in kept


def test_an_older_file_of_a_folder_named_as_seen_from_where_one_works(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the progress of version 1 named it so, too."""
    with closing(sqlite3.connect(home / "outputs" / ".framepack" / FILE)) as file:
        file.execute("UPDATE job SET progress = replace(progress, ?, 'outputs')", (str(home / "outputs"),))
        file.commit()
    monkeypatch.chdir(home)
    queue = JobQueue(Path("outputs"))
    assert queue.result(DONE).is_file()
    assert queue.job(BROKEN).progress.folder
    queue.close()


# A day's folder that is a link.


@pytest.fixture
def linked_day(home: Path) -> Path:
    """The output folder, whose day lies on another disk."""
    outputs = home / "outputs"
    (day,) = outputs.glob("2*")
    day.rename(home / "disk")
    day.symlink_to(home / "disk")
    return outputs


def test_a_linked_day_goes_on_and_is_deleted(linked_day: Path) -> None:
    disk = linked_day.parent / "disk"
    (disk / ".999999999_0123456789ab.part.mp4").touch()
    queue = JobQueue(linked_day)
    assert list(disk.glob(".*")) == [], "what a killed writer left goes"
    assert probe(queue.result(DONE)).frames == 73
    queue.go_on(BROKEN)
    with working(queue, ScriptedExecutor(linked_day)):
        assert ended(queue, BROKEN).state == "done"
    for job in (DONE, BROKEN):
        video = queue.result(job)
        queue.trash(job)
        assert not video.exists()
        assert not video.with_suffix(".png").exists()
        assert (linked_day / "trash" / video.name).is_file()
    queue.close()


def test_unfinished_work_in_a_linked_day_is_deleted(linked_day: Path) -> None:
    queue = JobQueue(linked_day)
    folder = Path(queue.job(BROKEN).progress.folder or "")
    queue.remove(BROKEN)
    assert not folder.exists()
    queue.close()


# A crafted file.

ELSEWHERE = [
    "../../kept",
    "2026-01-31/../../../kept",
    ".framepack/../../../kept",
    "{home}/../kept",
    "{home}/outputs/../../kept",
    "link/kept",
    "{home}/outputs/link/kept",
    "2026-01-31/link/kept",
    "2000-01-01",
    ".",
]


@pytest.mark.parametrize("filled", [2], indirect=True)
@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_crafted_file_deletes_nothing_outside(home: Path, place: str) -> None:
    outputs, kept = home / "outputs", home.parent / "kept"
    for folder in (kept, kept / "kept"):
        folder.mkdir()
        for name in ("job.json", "v.mp4", "v.png"):
            (folder / name).write_text("{}", encoding="utf-8")
    (outputs / "link").symlink_to(kept)
    (outputs / "2000-01-01").symlink_to(kept)
    (outputs / "2026-01-31").mkdir(exist_ok=True)
    (outputs / "2026-01-31" / "link").symlink_to(kept)
    place = place.format(home=home)
    _craft(outputs, DONE, {"video": f"{place}/v.mp4" if place != "2000-01-01" else place, "folder": None})
    _craft(outputs, BROKEN, {"video": None, "folder": place})
    queue = JobQueue(outputs)
    queue.trash(DONE)
    queue.remove(BROKEN)
    assert sorted(str(file.relative_to(kept)) for file in kept.rglob("*.*")) == [
        "job.json", "kept/job.json", "kept/v.mp4", "kept/v.png", "v.mp4", "v.png",
    ]  # fmt: skip
    assert outputs.is_dir()
    queue.close()


def _craft(outputs: Path, job: int, told: dict[str, Any]) -> None:
    with closing(sqlite3.connect(outputs / ".framepack" / FILE)) as file:
        (progress,) = file.execute("SELECT progress FROM job WHERE id = ?", (job,)).fetchone()
        file.execute("UPDATE job SET progress = ? WHERE id = ?", (json.dumps({**json.loads(progress), **told}), job))
        file.commit()


def test_nothing_of_a_job_is_lost_on_the_way_to_the_file_and_back(home: Path) -> None:
    def told() -> list[Job]:
        queue = JobQueue(home / "outputs")
        jobs = queue.jobs()
        queue.close()
        return jobs

    assert told() == told()
