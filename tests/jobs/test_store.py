"""The file of the queue: what is kept, and what happens to a file that cannot be used."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusers_helper.errors import AlreadyRunning, QueueUnavailable
from diffusers_helper.jobs.lock import InstanceLock
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.store import BACKUP, FILE, VERSION
from tests.jobs_support import make_picture, make_request


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of a queue with two jobs, closed."""
    queue = JobQueue(tmp_path / "outputs")
    for prompt in ("a", "b"):
        queue.add(make_request(make_picture(tmp_path), prompt=prompt))
    queue.close()
    JobQueue(queue.output_dir).close()  # a start makes a backup
    return queue.output_dir / ".framepack" / FILE


def reopened(file: Path) -> JobQueue:
    return JobQueue(file.parent.parent)


def prompts(queue: JobQueue) -> list[str]:
    return [job.request.prompt for job in queue.jobs()]


def change(file: Path, command: str) -> None:
    connection = sqlite3.connect(file)
    connection.execute(command)
    connection.commit()
    connection.close()


def test_everything_is_there_again(file: Path) -> None:
    queue = reopened(file)
    assert (prompts(queue), queue.notices) == (["a", "b"], ())


def test_what_is_written_outlives_a_power_cut(file: Path) -> None:
    (level,) = reopened(file)._ledger._store._connection.execute("PRAGMA synchronous").fetchone()
    assert level == 2, "FULL: WAL with less syncs only now and then"


def overwrite_pages(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def not_a_database(file: Path) -> None:
    file.write_bytes(b"<html>" * 1000)


@pytest.mark.parametrize("damage", [overwrite_pages, truncate, not_a_database])
def test_a_damaged_file_is_put_aside_and_its_backup_used(file: Path, damage: Callable[[Path], None]) -> None:
    damage(file)
    damaged = file.read_bytes()
    queue = reopened(file)
    assert prompts(queue) == ["a", "b"]
    assert "was damaged" in str(queue.notices[0])
    assert "last backup" in str(queue.notices[0])
    (aside,) = file.parent.glob("jobs.damaged-*.sqlite3")
    assert aside.read_bytes() == damaged
    queue.close()
    assert reopened(file).notices == ()


def test_without_a_sound_backup_the_queue_begins_empty(file: Path) -> None:
    for each in (file, file.with_name(BACKUP)):
        each.write_bytes(b"<html>" * 1000)
    queue = reopened(file)
    assert prompts(queue) == []
    assert "begins empty" in str(queue.notices[0])


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("PRAGMA application_id = 7", "not made by FramePack"),
        (f"PRAGMA user_version = {VERSION + 1}", f"has version {VERSION + 1}"),
    ],
)
def test_a_foreign_or_newer_file_is_left_as_it_is(file: Path, command: str, reason: str) -> None:
    change(file, command)
    before = file.read_bytes()
    queue = reopened(file)
    assert reason in str(queue.notices[0])
    assert "memory only" in str(queue.notices[0])
    assert prompts(queue) == []
    queue.close()
    assert file.read_bytes() == before


def test_a_second_program_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    first, second = InstanceLock(tmp_path / ".framepack"), InstanceLock(tmp_path / ".framepack")
    first.acquire()
    first.tell("http://127.0.0.1:7860")
    with pytest.raises(AlreadyRunning, match=r"process \d+ http://127.0.0.1:7860.*--output-dir"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_folder_that_another_program_has_taken_is_not_written(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path)
    shutil.rmtree(tmp_path / ".framepack")
    other = InstanceLock(tmp_path / ".framepack")
    other.acquire()
    with pytest.raises(QueueUnavailable, match="Another FramePack works on"):
        queue.add(make_request(make_picture(tmp_path)))
    other.release()
    assert queue.add(make_request(make_picture(tmp_path))).state == "queued"
    queue.close()


def test_a_file_that_was_put_in_the_place_of_ours_is_not_written(file: Path) -> None:
    queue = reopened(file)
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(QueueUnavailable, match="was replaced"):
        queue.remove(1)
    assert file.read_bytes() == content
    queue.close()


def test_many_threads_never_claim_the_same_job(tmp_path: Path) -> None:
    queue, picture = JobQueue(tmp_path / "outputs"), make_picture(tmp_path)
    for number in range(50):
        queue.add(make_request(picture, seed=number))
    claimed: list[int] = []
    together = threading.Barrier(8)

    def claim() -> None:
        together.wait()
        while job := queue.claim():
            claimed.append(job.id)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [job.id for job in sorted(queue.jobs(), key=lambda job: job.id)]
    assert len(set(claimed)) == 50
