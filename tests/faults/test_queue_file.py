"""The queue's file is locked, damaged or read-only, or the clock jumps: the queue opens, works, and loses no job."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from diffusers_helper.errors import QueueUnavailable
from diffusers_helper.events import SectionDone, Step
from diffusers_helper.jobs import store
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.request import Request

from ..jobs_support import Hold, ScriptedExecutor, ended, make_picture, make_request, working


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return make_request(make_picture(tmp_path))


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def queue_file(outputs: Path) -> Path:
    return outputs / ".framepack" / store.FILE


@contextmanager
def locked(outputs: Path) -> Iterator[None]:
    """Another program holds the file for itself meanwhile."""
    with closing(sqlite3.connect(queue_file(outputs), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def scribble(outputs: Path) -> None:
    """Another program overwrites the file and what SQLite keeps beside it."""
    for file in (queue_file(outputs), queue_file(outputs).with_name(store.FILE + "-wal")):
        with file.open("r+b") as opened:
            opened.write(b"\xff" * file.stat().st_size)


def test_a_locked_file_at_the_start_costs_nothing(outputs: Path, request_: Request) -> None:
    queue = JobQueue(outputs)
    kept = queue.add(request_)
    queue.close()
    with closing(sqlite3.connect(queue_file(outputs), isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        blind = JobQueue(outputs)
        assert "database is locked" in str(blind.notices[0])
        assert "memory only" in str(blind.notices[0])
        job = blind.add(request_)
        with working(blind, ScriptedExecutor(outputs)):
            assert ended(blind, job.id).state == "done"
        blind.remove(job.id)
        blind.close()
        other.execute("ROLLBACK")
    queue = JobQueue(outputs)
    assert ([job.id for job in queue.jobs()], queue.notices) == ([kept.id], ())
    assert queue.picture(kept.id).is_file()
    assert queue.thumbnail(kept.id).is_file()


def test_a_file_that_is_locked_meanwhile(outputs: Path, request_: Request) -> None:
    """The running job does not wait for it; what a user asks for is refused in words, and works later."""
    queue = JobQueue(outputs)
    hold = Hold(lambda event: isinstance(event, Step))
    running = queue.add(request_)
    with working(queue, ScriptedExecutor(outputs, hold)):
        assert hold.reached.wait(5)
        with locked(outputs):
            with pytest.raises(QueueUnavailable, match="database is locked"):
                queue.add(request_)
            hold.go.set()
            assert ended(queue, running.id).state == "done"
            assert "kept in memory until it can" in str(queue.notices[0])
        later = queue.add(request_)
        assert queue.notices == ()
        assert ended(queue, later.id).state == "done"
    assert states_after_a_restart(queue) == ["done", "done"]


def test_a_command_that_is_refused_costs_no_work(outputs: Path, request_: Request) -> None:
    queue = JobQueue(outputs)
    hold = Hold(lambda event: isinstance(event, SectionDone))
    stopped, again = queue.add(request_), queue.add(request_)
    with working(queue, ScriptedExecutor(outputs, hold)):
        assert hold.reached.wait(5)
        queue.cancel(stopped.id, "now")
        queue.pause()
        hold.go.set()
        ended(queue, stopped.id)
    with locked(outputs):
        for command in (queue.retry, queue.remove):
            with pytest.raises(QueueUnavailable, match="database is locked"):
                command(stopped.id)
            assert queue.job(stopped.id).can_go_on, command
        with pytest.raises(QueueUnavailable):
            queue.cancel(again.id, "nothing")
    assert queue.job(again.id).state == "queued"
    queue.close()


def test_a_file_that_turns_read_only_meanwhile(outputs: Path, request_: Request) -> None:
    queue = JobQueue(outputs)
    hold = Hold(lambda event: isinstance(event, Step))
    running = queue.add(request_)
    with working(queue, ScriptedExecutor(outputs, hold)):
        assert hold.reached.wait(5)
        queue._ledger._store._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(QueueUnavailable, match="readonly database"):
            queue.add(request_)
        hold.go.set()
        assert ended(queue, running.id).state == "done"
        assert queue.notices
        queue._ledger._store._connection.execute("PRAGMA query_only = OFF")
        assert ended(queue, queue.add(request_).id).state == "done"
    assert states_after_a_restart(queue) == ["done", "done"]


@pytest.mark.parametrize("damage", [scribble, lambda outputs: queue_file(outputs).unlink()], ids=["damaged", "removed"])
def test_a_file_that_is_damaged_or_removed_meanwhile(
    damage: Callable[[Path], None], outputs: Path, request_: Request
) -> None:
    """The worker ends its job and takes the next; after a restart at least the backup's jobs are there."""
    queue = JobQueue(outputs)
    with working(queue, ScriptedExecutor(outputs)):
        earlier = ended(queue, queue.add(request_).id)
    hold = Hold(lambda event: isinstance(event, SectionDone))
    running, waiting = queue.add(request_), queue.add(request_)
    with working(queue, ScriptedExecutor(outputs, hold)) as worker:
        assert hold.reached.wait(5)
        damage(outputs)
        hold.go.set()
        assert [ended(queue, job.id).state for job in (running, waiting)] == ["done", "done"]
        assert worker.alive
    assert len(list(outputs.glob("2*/[!.]*.mp4"))) == 3
    queue.close()
    queue = JobQueue(outputs)
    assert earlier.id in [job.id for job in queue.jobs()]
    assert ended(queue, earlier.id).state == "done"


def test_a_removed_file_is_written_again_with_the_pause(outputs: Path, request_: Request) -> None:
    queue = JobQueue(outputs)
    queue.pause()
    queue_file(outputs).unlink()
    job = queue.add(request_)
    queue.close()
    again = JobQueue(outputs)
    assert ([each.id for each in again.jobs()], again.paused) == ([job.id], True)
    again.close()


def test_a_clock_that_jumps_back_changes_no_order(outputs: Path, request_: Request) -> None:
    times = iter(range(1_000_000_000, 0, -1_000_000))
    queue = JobQueue(outputs, clock=lambda: float(next(times)))
    jobs = [queue.add(request_) for _ in range(4)]
    assert [job.id for job in queue.jobs()] == [job.id for job in jobs]
    with working(queue, ScriptedExecutor(outputs)):
        for job in jobs:
            ended(queue, job.id)
    newest_first = [job.id for job in reversed(jobs)]
    assert [job.id for job in queue.jobs()] == newest_first
    queue.close()
    queue = JobQueue(outputs)
    assert [job.id for job in queue.jobs()] == newest_first
    assert queue.add(request_).id == max(newest_first) + 1


def states_after_a_restart(queue: JobQueue) -> list[str]:
    queue.close()
    again = JobQueue(queue.output_dir)
    assert again.notices == ()
    return [job.state for job in again.jobs()]
