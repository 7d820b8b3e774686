"""A move to the trash or back breaks: the files are where the queue says, and what was asked for can be asked again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffusers_helper import faults
from diffusers_helper.errors import OutputFailed, QueueUnavailable
from diffusers_helper.events import Failed, Started
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.queue import JobQueue

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
    queue.told(job.id, Started(folder=str(folder), seed=1, sections_done=0))
    return queue.end(job.id, Failed(error="it broke", exit_code=1, folder=str(folder)), "failed")


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
