"""Several executors on one queue: each job is carried out once, says where, and what befalls one costs no other."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from diffusers_helper.errors import ExecutorLost
from diffusers_helper.events import Cancelled, Event, Failed, Finished, Notice, Plan, SectionDone, Started
from diffusers_helper.jobs.executor import Executor
from diffusers_helper.jobs.job import Keep
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.store import FILE
from diffusers_helper.jobs.worker import Workers
from diffusers_helper.models.table import Checkpoint
from diffusers_helper.request import Request
from diffusers_helper.words import plain
from tests.jobs_support import (
    PATIENCE_SECONDS,
    Hold,
    ScriptedExecutor,
    at_step,
    ended,
    make_picture,
    make_request,
    wait_until,
)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    queue = JobQueue(tmp_path / "outputs")
    yield queue
    queue.close()


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return make_request(make_picture(tmp_path))


@contextmanager
def at_work(queue: JobQueue, **executors: Executor) -> Iterator[Workers]:
    """Workers with these executors, each under its name."""
    workers = Workers(queue, executors)
    workers.start()
    try:
        yield workers
    finally:
        assert workers.stop(PATIENCE_SECONDS)


def held(queue: JobQueue) -> tuple[ScriptedExecutor, Hold]:
    """An executor that stops at the first step, until it may go on."""
    hold = Hold(at_step(1, 1))
    return ScriptedExecutor(queue.output_dir, hold), hold


def test_two_jobs_run_at_once_and_say_where(queue: JobQueue, request_: Request) -> None:
    jobs = [queue.add(request_).id for _ in range(3)]
    (first, go_first), (second, go_second) = held(queue), held(queue)
    with at_work(queue, one=first, two=second):
        assert all(hold.reached.wait(PATIENCE_SECONDS) for hold in (go_first, go_second))
        assert [(job.state, bool(job.executor)) for job in queue.jobs()] == [
            ("running", True),
            ("running", True),
            ("queued", False),
        ]
        assert {job.executor for job in queue.jobs()[:2]} == {"one", "two"}
        assert {one["executor"] for one in queue.snapshots()} == {"one", "two", ""}
        for hold in (go_first, go_second):
            hold.go.set()
        assert [ended(queue, job).state for job in jobs] == ["done"] * 3
    assert [job.executor for job in queue.jobs()] == [""] * 3
    assert len(first.submitted) + len(second.submitted) == 3


def test_the_only_executor_needs_no_name(queue: JobQueue, request_: Request) -> None:
    job = queue.add(request_).id
    executor, hold = held(queue)
    with at_work(queue, one=executor):
        assert hold.reached.wait(PATIENCE_SECONDS)
        assert (queue.job(job).state, queue.job(job).executor) == ("running", "")
        hold.go.set()
        ended(queue, job)


def test_the_first_begun_stands_first(queue: JobQueue, request_: Request) -> None:
    """Whatever their places in the queue were."""
    jobs = [queue.add(request_).id for _ in range(2)]
    queue.run_next(jobs[1])
    assert [queue.claim(name).id for name in ("one", "two")] == jobs[::-1]  # type: ignore[union-attr]
    assert [job.id for job in queue.jobs()] == jobs[::-1]


def test_a_stop_is_for_its_job_alone(queue: JobQueue, request_: Request) -> None:
    stopped, whole = (queue.add(request_).id for _ in range(2))
    (first, go_first), (second, go_second) = held(queue), held(queue)
    with at_work(queue, one=first, two=second):
        assert all(hold.reached.wait(PATIENCE_SECONDS) for hold in (go_first, go_second))
        queue.cancel(stopped)
        for hold in (go_first, go_second):
            hold.go.set()
        assert [ended(queue, job).state for job in (stopped, whole)] == ["cancelled", "done"]


class Losing(ScriptedExecutor):
    """Loses what carries out its jobs at their first section; ``gpu``: the GPU, else the whole process."""

    gpu = False

    def submit(self, request: Request, folder: Path | None, checkpoint: str = "") -> _LosingExecution:  # type: ignore[override]
        return _LosingExecution(super().submit(request, folder, checkpoint), self.gpu)


class _LosingExecution:
    def __init__(self, played: object, gpu: bool) -> None:
        self._played, self._gpu = played, gpu
        self.cancel = played.cancel  # type: ignore[attr-defined]

    def events(self) -> Iterator[Event]:
        for event in self._played.events():  # type: ignore[attr-defined]
            yield event
            if isinstance(event, SectionDone):
                if not self._gpu:
                    raise ExecutorLost("its process was ended by SIGKILL")
                folder = str(Path(event.path).parent)
                yield Failed(error="CUDA error: launch timed out", exit_code=1, folder=folder, gpu_lost=True)
                return


def test_a_gpu_that_is_lost_halts_its_executor_alone(queue: JobQueue, request_: Request) -> None:
    losing = Losing(queue.output_dir)
    losing.gpu = True
    lost = queue.add(request_).id
    other, hold = held(queue)
    with at_work(queue, one=losing, two=other):
        wait_until(lambda: losing.submitted or other.submitted, "a job")
        jobs = [queue.add(request_).id for _ in range(4)]
        hold.go.set()
        wait_until(lambda: queue.is_halted, "the loss")
        wait_until(lambda: all(queue.job(job).state in ("done", "failed") for job in (lost, *jobs)), "the others")
        assert len(losing.submitted) == 1
        assert sorted(queue.job(job).state for job in (lost, *jobs)) == ["done"] * 4 + ["failed"]
        assert not queue.paused
        (notice,) = queue.notices
        assert "The GPU of one stopped working at job" in str(notice)
        assert "the others go on" in str(notice)
        queue.unpause()
        assert (queue.is_halted, queue.notices) == (False, ())


def test_where_all_are_halted_the_queue_is_paused(queue: JobQueue) -> None:
    for name in ("one", "two"):
        queue.employ(name)
    queue.halt("one", plain("why one"))
    assert (queue.paused, queue.claim("one"), queue.notices) == (False, None, (plain("why one"),))
    queue.halt("two", plain("why two"))
    assert (queue.paused, queue.notices) == (True, (plain("why one"), plain("why two")))
    queue.unpause()
    assert (queue.paused, queue.notices) == (False, ())


def test_a_job_whose_executor_was_lost_is_interrupted_and_goes_on(queue: JobQueue, request_: Request) -> None:
    job = queue.add(request_).id
    with at_work(queue, one=Losing(queue.output_dir)):
        lost = ended(queue, job)
        assert (lost.state, lost.progress.error) == ("interrupted", "its process was ended by SIGKILL")
        assert (lost.can_go_on, lost.progress.sections_done, queue.paused) == (True, 1, False)
    queue.go_on(job)
    with at_work(queue, one=ScriptedExecutor(queue.output_dir)):
        done = ended(queue, job)
    assert (done.state, done.progress.sections_done, done.progress.error) == ("done", 2, None)


def test_a_job_that_was_ended_by_nobody_here_is_interrupted(queue: JobQueue, request_: Request) -> None:
    """A signal to its process, say; only who stops a job here cancels it."""

    class Signalled(ScriptedExecutor):
        def submit(self, request: Request, folder: Path | None, checkpoint: str = "") -> object:  # type: ignore[override]
            played = super().submit(request, folder, checkpoint)
            played.cancel()
            return played

    job = queue.add(request_).id
    with at_work(queue, one=Signalled(queue.output_dir)):  # type: ignore[arg-type]
        assert ended(queue, job).state == "interrupted"


@pytest.mark.parametrize("keep", ["now", "nothing"])
def test_a_stop_while_a_process_still_loads_is_a_stop(queue: JobQueue, request_: Request, keep: Keep) -> None:
    """It ends without a last event then."""

    class Loading(ScriptedExecutor):
        def submit(self, request: Request, folder: Path | None, checkpoint: str = "") -> object:  # type: ignore[override]
            class Execution:
                def events(self) -> Iterator[Event]:
                    yield Notice(message="what the checkpoint says")
                    queue.cancel(job, keep)
                    raise ExecutorLost("its process was interrupted")

                def cancel(self) -> None:
                    """It is over anyway."""

            return Execution()

    job = queue.add(request_).id
    with at_work(queue, one=Loading(queue.output_dir)):  # type: ignore[arg-type]
        stopped = ended(queue, job)
    assert (stopped.state, stopped.progress.error) == ("cancelled", None)


def test_after_a_crash_all_that_ran_are_interrupted(queue: JobQueue, request_: Request) -> None:
    jobs = [queue.add(request_).id for _ in range(3)]
    for name in ("one", "two"):
        queue.claim(name)
    with closing(sqlite3.connect(queue.output_dir / ".framepack" / FILE)) as file:
        kept = file.execute("SELECT state, executor FROM job ORDER BY id").fetchall()
    assert kept == [("running", "one"), ("running", "two"), ("queued", "")]
    queue.close()
    again = JobQueue(queue.output_dir)
    assert [(again.job(job).state, again.job(job).executor) for job in jobs] == [
        ("interrupted", ""),
        ("interrupted", ""),
        ("queued", ""),
    ]
    again.close()


def test_a_worker_that_has_ended_is_known(queue: JobQueue, request_: Request) -> None:
    with at_work(queue, one=ScriptedExecutor(queue.output_dir), two=ScriptedExecutor(queue.output_dir)) as workers:
        assert workers.heartbeat_age_seconds() < PATIENCE_SECONDS
    assert workers.heartbeat_age_seconds() == math.inf


@pytest.mark.parametrize(("keeps_models", "seconds"), [(True, 30.0), (False, 39.0)])
def test_the_models_loading_counts_where_they_are_not_kept(
    tmp_path: Path, request_: Request, keeps_models: bool, seconds: float
) -> None:
    """Each executor has its own: what one has loaded, another has not."""
    now, checkpoint = [1000.0], Checkpoint("scripted", "scripted", ("f1", "framepack"), {}, ((64, 64),))
    queue = JobQueue(tmp_path / "outputs", lambda source: checkpoint, lambda: now[0])
    jobs = [queue.add(request_).id for _ in range(3)]
    queue.claim("one", keeps_models)
    now[0] += 9.0
    queue.record(jobs[0], Started(folder=str(tmp_path / "work"), seed=1, sections_done=0))
    shape = {"frames": 73, "fps": 30, "seconds": 2.4, "width": 64, "height": 64}
    queue.record(jobs[0], Plan(checkpoint="scripted", kind="framepack", sections=2, steps=2, **shape))
    figures = {"seconds_sampling": 20.0, "seconds_decoding": 10.0, "seconds_total": 30.0, "steps_computed": 4}
    queue.end(jobs[0], Finished(path="x.mp4", **figures), "done")
    assert queue.claim("one", keeps_models).ready_at == now[0] + seconds  # type: ignore[union-attr]
    assert queue.claim("two", keeps_models).ready_at == now[0] + 39.0  # type: ignore[union-attr]
    queue.end(jobs[1], Cancelled(folder=""), "cancelled")
    queue.close()
