"""A job in the queue's file that cannot be read: it is kept and shown, can be deleted, and costs the others nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import InvalidCommand, UnknownJob
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.store import BACKUP, FILE
from diffusers_helper.request import Request
from tests.jobs_support import ScriptedExecutor, ended, make_picture, make_request, working

BROKEN = 2
DAMAGES = {
    "no JSON": ("request = '{'", "the request is not JSON"),
    "a field": ("request = json_set(request, '$.steps', 1000)", "steps: 1000 is not allowed"),
    "a version to come": (
        "request = json_set(request, '$.schema_version', 99)",
        "schema_version: 99 was made by a newer version",
    ),
    "a state": ("state = 'leapt'", "state: Input should be 'queued'"),
    "a column of another kind": ("created_at = 'yesterday'", "created_at: Input should be a valid number"),
    "other bytes": ("request = CAST(x'ff00fe' AS TEXT)", "the request is not JSON"),
    "bytes": ("progress = x'00ff'", "UnicodeDecodeError|JSONDecodeError"),
    "a progress to come": ("progress = '{\"form\": 99}'", "progress: form 99 is not known"),
    "an event": (
        "progress = json_set(progress, '$.started', json('{\"event\": \"started\"}'))",
        "started: folder is missing; started: seed is missing",
    ),
    "an event of another kind": (
        'progress = json_set(progress, \'$.plan\', json(\'{"event": "notice", "message": ""}\'))',
        "plan: Input should be",
    ),
    "a progress of nothing": ("progress = '[]'", "progress: must be a JSON object, not list"),
    "a time beyond all dates": ("ended_at = 1e18", "ended_at: 1e\\+18 is no time"),
    "a time that is none": ("created_at = 9e999", "created_at: inf is no time"),
    "too deep": (f"request = '{'[' * 100_000}'", "RecursionError|the request is not JSON"),
}
"""What is done to the row, and what is then said of it."""


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An output folder with a queue of three jobs, closed."""
    queue = JobQueue(tmp_path / "outputs")
    for prompt, colour in (("a", "teal"), ("b", "navy"), ("c", "teal")):
        queue.add(make_request(make_picture(tmp_path, colour), prompt=prompt))
    queue.close()
    return queue.output_dir


def change(outputs: Path, change: str) -> None:
    with closing(sqlite3.connect(outputs / ".framepack" / FILE)) as file:
        file.execute(f"UPDATE job SET {change} WHERE id = {BROKEN}")  # noqa: S608
        file.commit()


def row(outputs: Path) -> list[Any]:
    """The row of the broken job: of every column its type and its bytes."""
    with closing(sqlite3.connect(outputs / ".framepack" / FILE)) as file:
        names = [name for _, name, *_ in file.execute("PRAGMA table_info(job)")]
        parts = ", ".join(f"typeof({name}), hex({name})" for name in names)
        return file.execute(f"SELECT {parts} FROM job WHERE id = {BROKEN}").fetchall()  # noqa: S608


@pytest.fixture
def broken(outputs: Path) -> Path:
    """The same; the second job cannot be read."""
    change(outputs, DAMAGES["a field"][0])
    return outputs


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_one_that_cannot_be_read_costs_the_others_nothing(outputs: Path, damage: str, reason: str) -> None:
    change(outputs, damage)
    before = row(outputs)
    queue = JobQueue(outputs)
    assert ([job.request.prompt for job in queue.jobs()], queue.notices) == (["a", "c"], ())
    (unreadable,) = queue.unreadable
    assert unreadable.id == BROKEN
    with pytest.raises(InvalidCommand, match=reason):
        queue.job(BROKEN)
    with working(queue, ScriptedExecutor(outputs)):
        assert [ended(queue, job).state for job in (1, 3)] == ["done", "done"]
    queue.close()
    assert row(outputs) == before
    assert list((outputs / ".framepack").glob("*damaged*")) == []
    again = JobQueue(outputs)
    assert ([job.id for job in again.jobs()], [each.id for each in again.unreadable]) == ([3, 1], [BROKEN])
    again.close()


def test_a_file_that_is_damaged_itself_is_still_put_aside(broken: Path) -> None:
    JobQueue(broken).close()
    file = broken / ".framepack" / FILE
    file.write_bytes(file.read_bytes()[:5000])
    queue = JobQueue(broken)
    assert "was damaged" in str(queue.notices[0])
    assert ([job.id for job in queue.jobs()], [each.id for each in queue.unreadable]) == ([1, 3], [BROKEN])
    assert (broken / ".framepack" / BACKUP).is_file()
    queue.close()


@pytest.mark.parametrize(
    "command",
    [
        JobQueue.run_next,
        JobQueue.cancel,
        JobQueue.retry,
        JobQueue.go_on,
        JobQueue.duplicate,
        JobQueue.picture,
        JobQueue.result,
        JobQueue.events,
        lambda queue, job: queue.move(job, None),
        lambda queue, job: queue.move(1, job),
        lambda queue, job: queue.edit(job, queue.job(1).request),
    ],
)
def test_nothing_is_done_with_it_but_deleting_it(broken: Path, command: Callable[[JobQueue, int], Any]) -> None:
    queue, before = JobQueue(broken), row(broken)
    with pytest.raises(InvalidCommand, match=r"job 2 cannot be read and can only be deleted: steps: 1000"):
        command(queue, BROKEN)
    assert [job.state for job in queue.jobs()] == ["queued", "queued"]
    assert row(broken) == before
    queue.close()


@pytest.mark.parametrize("damage", [damage for damage, _ in DAMAGES.values()], ids=DAMAGES)
def test_it_is_deleted_and_comes_back_as_it_was(outputs: Path, damage: str) -> None:
    change(outputs, damage)
    queue, before = JobQueue(outputs), row(outputs)
    (unreadable,) = queue.unreadable
    queue.trash(BROKEN)
    assert (queue.unreadable, queue.trashed, row(outputs)) == ([], [unreadable], [])
    with pytest.raises(UnknownJob):
        queue.job(BROKEN)
    assert queue.restore(BROKEN) == unreadable
    assert (queue.unreadable, queue.trashed, row(outputs)) == ([unreadable], [], before)
    queue.remove(BROKEN)
    assert (queue.unreadable, queue.trashed, row(outputs)) == ([], [], [])
    queue.close()


def test_its_picture_is_kept_as_long_as_it_may_be_needed(outputs: Path) -> None:
    queue = JobQueue(outputs)
    pictures = [queue.picture(job.id) for job in queue.jobs()]
    queue.close()
    change(outputs, DAMAGES["a version to come"][0])
    queue = JobQueue(outputs)
    queue.remove(3)
    queue.trash(BROKEN)
    queue.remove(1)
    assert [picture.is_file() for picture in pictures] == [True, True, True]
    queue.restore(BROKEN)
    queue.remove(BROKEN)
    assert [picture.is_file() for picture in pictures] == [False, False, False]
    queue.close()


def test_it_is_written_again_where_the_file_was_removed(broken: Path) -> None:
    queue, before = JobQueue(broken), row(broken)
    (broken / ".framepack" / FILE).unlink()
    queue.pause()
    queue.close()
    assert row(broken) == before


def test_its_number_is_given_to_no_other(broken: Path, tmp_path: Path) -> None:
    queue = JobQueue(broken)
    for job in (3, BROKEN):
        queue.remove(job)
    assert queue.add(_request(tmp_path)).id == 4
    queue.close()


def test_a_program_is_told_of_it_as_of_a_job(broken: Path) -> None:
    queue = JobQueue(broken)
    sound, told = queue.snapshot(1), queue.snapshot(BROKEN)
    assert told.keys() == sound.keys()
    assert (told["id"], told["state"], told["can_go_on"]) == (BROKEN, "unreadable", False)
    assert told["error"].startswith("steps: 1000 is not allowed")
    assert [one["id"] for one in queue.snapshots()] == [1, 3, BROKEN]
    queue.close()


def _request(folder: Path) -> Request:
    return make_request(make_picture(folder))
