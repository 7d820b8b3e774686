"""A move to the trash or back breaks: the files are where the queue says, and what was asked for can be asked again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from diffusers_helper import faults
from diffusers_helper.errors import OutputFailed, QueueUnavailable
from diffusers_helper.events import Failed, Finished, Started
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.results import move

from ..jobs_support import make_picture, make_request


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    faults.armed.cache_clear()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    queue = JobQueue(tmp_path / "outputs")
    yield queue
    queue.close()


@pytest.fixture
def broken(queue: JobQueue, tmp_path: Path) -> Job:
    """A job that has failed and left a work folder."""
    job = queue.add(make_request(make_picture(tmp_path)))
    folder = queue.output_dir / "day" / "work"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text("{}")
    queue.claim()
    queue.record(job.id, Started(folder=str(folder), seed=1, sections_done=0))
    return queue.end(job.id, Failed(error="it broke", exit_code=1, folder=str(folder)), "failed")


@pytest.fixture
def done(queue: JobQueue, tmp_path: Path) -> Job:
    """A job that has made a video and its picture."""
    job = queue.add(make_request(make_picture(tmp_path)))
    video = queue.output_dir / "day" / "v.mp4"
    video.parent.mkdir()
    video.write_bytes(b"frames")
    video.with_suffix(".png").write_bytes(b"picture")
    queue.claim()
    return queue.end(job.id, Finished(path=str(video), frames=37), "done")


def files(queue: JobQueue) -> list[str]:
    """What lies in the output folder, but for the program's own."""
    found = (file.relative_to(queue.output_dir).as_posix() for file in queue.output_dir.rglob("*.*") if file.is_file())
    return sorted(name for name in found if not name.startswith(".framepack"))


@contextmanager
def read_only(queue: JobQueue) -> Iterator[None]:
    """The queue's file takes nothing meanwhile."""
    run = queue._ledger._store._connection.execute
    run("PRAGMA query_only = ON")
    yield
    run("PRAGMA query_only = OFF")


def test_a_job_whose_folder_cannot_be_moved_is_not_queued_again(
    queue: JobQueue, broken: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(faults.VARIABLE, "move=disk_full")
    with pytest.raises(OutputFailed, match="could not be moved"):
        queue.retry(broken.id)
    assert queue.job(broken.id) == broken
    assert broken.can_go_on
    assert queue.retry(broken.id).state == "queued"
    assert files(queue) == ["trash/work/job.json"]


def test_a_job_that_the_queue_file_does_not_take_keeps_its_folder(queue: JobQueue, broken: Job) -> None:
    with read_only(queue), pytest.raises(QueueUnavailable):
        queue.retry(broken.id)
    assert queue.job(broken.id) == broken
    assert files(queue) == ["day/work/job.json"]
    assert queue.go_on(broken.id).state == "queued"


def test_deleting_that_breaks_halfway_leaves_the_job_with_its_files(
    queue: JobQueue, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(faults.VARIABLE, "move=disk_full@2")
    with pytest.raises(OutputFailed, match=r"v\.png could not be moved"):
        queue.trash(done.id)
    assert (queue.jobs(), queue.trashed) == ([done], [])
    assert files(queue) == ["day/v.mp4", "day/v.png"]
    queue.trash(done.id)
    assert files(queue) == ["trash/v.mp4", "trash/v.png"]


def test_deleting_that_the_queue_file_does_not_take_leaves_the_job_with_its_files(queue: JobQueue, done: Job) -> None:
    """And deleting it later has an undo that brings all back."""
    with read_only(queue), pytest.raises(QueueUnavailable):
        queue.trash(done.id)
    assert (queue.jobs(), queue.trashed) == ([done], [])
    assert files(queue) == ["day/v.mp4", "day/v.png"]
    queue.trash(done.id)
    assert queue.restore(done.id) == done
    assert files(queue) == ["day/v.mp4", "day/v.png"]


def test_what_cannot_go_back_either_is_named_with_its_place(
    queue: JobQueue, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(faults.VARIABLE, "move=disk_full@2, move=disk_full@3")
    with pytest.raises(OutputFailed, match=r"trash/v\.mp4 could not be moved to .*/day: "):
        queue.trash(done.id)
    assert queue.jobs() == [done]


@pytest.mark.parametrize("gone", ["v.mp4", "v.png", "v.*"])
def test_undo_brings_back_what_there_still_is(queue: JobQueue, done: Job, gone: str) -> None:
    """Somebody has emptied the trash folder."""
    queue.trash(done.id)
    for file in (queue.output_dir / "trash").glob(gone):
        file.unlink()
    left = [name.replace("trash/", "day/") for name in files(queue)]
    assert queue.restore(done.id) == queue.job(done.id) == done
    assert files(queue) == left
    assert queue.trashed == []


def test_undo_of_what_somebody_has_moved_back_by_hand(queue: JobQueue, done: Job) -> None:
    queue.trash(done.id)
    for file in (queue.output_dir / "trash").iterdir():
        file.rename(queue.output_dir / "day" / file.name)
    assert queue.restore(done.id) == done
    assert queue.result(done.id).read_bytes() == b"frames"


def test_undo_that_breaks_halfway_can_be_asked_for_again(
    queue: JobQueue, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.trash(done.id)
    monkeypatch.setenv(faults.VARIABLE, "move=disk_full@2")
    with pytest.raises(OutputFailed, match=r"v\.png could not be moved"):
        queue.restore(done.id)
    assert (queue.jobs(), queue.trashed) == ([], [done])
    assert files(queue) == ["trash/v.mp4", "trash/v.png"]
    assert queue.restore(done.id) == done
    assert files(queue) == ["day/v.mp4", "day/v.png"]


def test_undo_that_the_queue_file_does_not_take_can_be_asked_for_again(queue: JobQueue, done: Job) -> None:
    queue.trash(done.id)
    with read_only(queue), pytest.raises(QueueUnavailable):
        queue.restore(done.id)
    assert (queue.jobs(), queue.trashed) == ([], [done])
    assert files(queue) == ["trash/v.mp4", "trash/v.png"]
    assert queue.restore(done.id) == done
    assert files(queue) == ["day/v.mp4", "day/v.png"]


# Where a day lies on another disk, files are copied.


@pytest.fixture
def small_trash(tmp_path: Path, mounted: Callable[[str], Path]) -> Path:
    """An output folder on a small disk, whose day lies on a large one."""
    disk = mounted("2m")
    (tmp_path / "day").mkdir()
    (disk / "2026-01-31").symlink_to(tmp_path / "day")
    return disk


@pytest.mark.parametrize("content", [b"", bytes(2**22)], ids=["fits", "too large"])
@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
def test_a_move_to_another_disk_is_whole_or_not_at_all(small_trash: Path, is_folder: bool, content: bytes) -> None:
    moving = small_trash / "2026-01-31" / "it"
    if is_folder:
        moving.mkdir()
    (moving / "part" if is_folder else moving).write_bytes(content)
    with pytest.raises(OutputFailed, match="could not be moved") if content else nullcontext():
        move(moving, small_trash / "trash" / "it")
    found = [file.parent.name for file in small_trash.glob("*/it")]
    assert found == (["2026-01-31"] if content else ["trash"])
    assert [file.read_bytes() for file in small_trash.glob("*/it/part" if is_folder else "*/it")] == [content]


def test_what_cannot_be_deleted_on_another_disk_is_not_moved(tmp_path: Path, mounted: Callable[[str], Path]) -> None:
    disk = mounted("3m")
    (disk / "v.mp4").write_bytes(b"frames")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OutputFailed, match="cannot be written"):
        move(disk / "v.mp4", tmp_path / "trash" / "v.mp4")
    assert not (tmp_path / "trash" / "v.mp4").exists()
