"""The worker: what each way of stopping leaves, and that nothing a job does can stop the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import UnusableCheckpoint
from diffusers_helper.events import Ended, Event, Failed, Preview, SectionDone, Started, Step
from diffusers_helper.forecast import UNKNOWN
from diffusers_helper.jobs.executor import Execution, LocalExecutor
from diffusers_helper.jobs.job import ENDED, Job, Keep
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.worker import StopWish, Worker
from diffusers_helper.media.video import probe
from diffusers_helper.request import Request
from tests.jobs_support import Hold, ScriptedExecutor, at_step, make_picture, make_request, wait_until
from tests.jobs_support import working as working_on


@pytest.fixture
def queue(tmp_path: Path) -> JobQueue:
    return JobQueue(tmp_path / "outputs")


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return make_request(make_picture(tmp_path), seconds=3.6, kind="f1")


@pytest.fixture
def working(queue: JobQueue) -> Iterator[Callable[..., ScriptedExecutor]]:
    """Starts a worker over a scripted executor."""
    workers: list[Worker] = []

    def start(before: Callable[[Event], None] = lambda event: None) -> ScriptedExecutor:
        executor = ScriptedExecutor(queue.output_dir, before)
        workers.append(Worker(queue, executor))
        workers[-1].start()
        return executor

    yield start
    assert all(worker.stop(5) for worker in workers)


def ended(queue: JobQueue, job: Job) -> Job:
    wait_until(lambda: queue.job(job.id).state in ENDED, "the end of the job")
    return queue.job(job.id)


def stopped_in_second_section(
    queue: JobQueue, request: Request, working: Callable[..., ScriptedExecutor], keep: Keep
) -> Job:
    """A job of three sections that is asked to stop at the first step of its second."""
    hold = Hold(at_step(2, 1))
    job = queue.add(request)
    working(hold)
    assert hold.reached.wait(5)
    queue.cancel(job.id, keep)
    hold.go.set()
    return ended(queue, job)


def test_a_job_runs_to_its_end(queue: JobQueue, request_: Request, working: Callable[..., ScriptedExecutor]) -> None:
    working()
    job = ended(queue, queue.add(request_))
    assert (job.state, job.progress.folder, job.progress.error) == ("done", None, None)
    assert probe(queue.result(job.id)).frames == job.progress.frames == 109


def test_stop_now_keeps_the_finished_sections_playable(
    queue: JobQueue, request_: Request, working: Callable[..., ScriptedExecutor]
) -> None:
    job = stopped_in_second_section(queue, request_, working, "now")
    assert (job.state, job.progress.sections_done) == ("cancelled", 1)
    assert probe(queue.result(job.id)).frames == 37
    assert job.can_go_on


def test_stop_after_the_section_finishes_it_first(
    queue: JobQueue, request_: Request, working: Callable[..., ScriptedExecutor]
) -> None:
    job = stopped_in_second_section(queue, request_, working, "section")
    assert (job.state, job.progress.sections_done) == ("cancelled", 2)
    assert probe(queue.result(job.id)).frames == 73


@pytest.mark.parametrize("keep", ["now", "section"])
def test_a_stop_after_the_last_section_lets_the_video_be_finished(
    queue: JobQueue, request_: Request, working: Callable[..., ScriptedExecutor], keep: Keep
) -> None:
    hold = Hold(lambda event: isinstance(event, Preview) and (event.section, event.step) == (3, 2))
    job = queue.add(request_)
    working(hold)
    assert hold.reached.wait(5)
    queue.cancel(job.id, keep)
    hold.go.set()
    job = ended(queue, job)
    assert (job.state, job.stop, job.progress.folder) == ("done", None, None)
    assert probe(queue.result(job.id)).frames == 109


def test_discard_leaves_nothing(queue: JobQueue, request_: Request, working: Callable[..., ScriptedExecutor]) -> None:
    job = stopped_in_second_section(queue, request_, working, "nothing")
    assert (job.state, job.progress.video, job.can_go_on) == ("cancelled", None, False)
    assert list(queue.output_dir.rglob("*.mp4")) == []


def test_a_stopped_job_goes_on_where_it_was(
    queue: JobQueue, request_: Request, working: Callable[..., ScriptedExecutor]
) -> None:
    job = stopped_in_second_section(queue, request_, working, "now")
    queue.go_on(job.id)
    job = ended(queue, job)
    assert job.state == "done"
    starts = [event["sections_done"] for event in queue.events(job.id) if event["event"] == "started"]
    assert starts == [0, 1]


def test_what_a_job_raises_fails_that_job_only(
    queue: JobQueue, request_: Request, working: Callable[..., ScriptedExecutor]
) -> None:
    def break_once(event: Event) -> None:
        if isinstance(event, Started) and event.seed == 1:
            raise RuntimeError("a bug")

    working(break_once)
    bad = ended(queue, queue.add(request_.model_copy(update={"seed": 1})))
    good = ended(queue, queue.add(request_))
    assert (bad.state, bad.progress.error) == ("failed", "RuntimeError: a bug")
    assert good.state == "done"


def test_what_an_estimate_cannot_read_costs_the_estimate_only(tmp_path: Path, request_: Request) -> None:
    damaged = False

    def find(source: str) -> None:
        if damaged:
            raise RuntimeError("a bug")

    queue = JobQueue(tmp_path / "outputs", find)
    jobs = [queue.add(request_) for _ in range(2)]
    damaged = True
    assert (queue.estimate(request_), queue.paces(request_)) == (None, UNKNOWN)
    with working_on(queue, ScriptedExecutor(queue.output_dir)) as worker:
        assert [ended(queue, job).state for job in jobs] == ["done", "done"]
        assert worker.alive
    queue.close()


class LostGPU(ScriptedExecutor):
    """The GPU is lost at the second job, after its first section or before anything; then at every other."""

    where: str = "section"

    def submit(self, request: Request, folder: Path | None, checkpoint: str) -> Any:
        played = super().submit(request, folder, checkpoint)
        return played if len(self.submitted) == 1 else LosingExecution(played, self.where)


class LosingExecution:
    def __init__(self, played: Execution, where: str) -> None:
        self._played, self._where = played, where
        self.cancel = played.cancel

    def events(self) -> Iterator[Event]:
        error = RuntimeError("CUDA error: unspecified launch failure")
        if self._where == "loading":
            raise error
        for event in self._played.events():
            yield event
            if isinstance(event, SectionDone):
                folder = str(Path(event.path).parent)
                yield Failed(error=f"the GPU stopped working. {error}", exit_code=1, folder=folder, gpu_lost=True)
                return


@pytest.mark.parametrize("where", ["section", "loading"])
def test_a_lost_gpu_fails_its_job_alone(queue: JobQueue, request_: Request, where: str) -> None:
    """The queue rests and says why; the other jobs wait for the next start, or for somebody who insists."""
    jobs = [queue.add(request_) for _ in range(4)]
    executor = LostGPU(queue.output_dir)
    executor.where = where
    with working_on(queue, executor):
        ended(queue, jobs[1])
        assert queue.paused
        (notice,) = queue.notices
        assert f"stopped working at job {jobs[1].id}, so no further job is begun. Start the program again" in str(
            notice
        )
        time.sleep(0.05)
        assert [queue.job(job.id).state for job in jobs] == ["done", "failed", "queued", "queued"]
        assert queue.job(jobs[1].id).can_go_on == (where == "section")
        queue.unpause()
        ended(queue, jobs[2])
    assert [queue.job(job.id).state for job in jobs] == ["done", "failed", "failed", "queued"]
    queue.close()
    again = JobQueue(queue.output_dir)
    assert (again.paused, again.notices) == (False, ())
    again.close()


def test_stopping_the_worker_interrupts_the_job_and_a_new_one_goes_on(queue: JobQueue, request_: Request) -> None:
    hold = Hold(lambda event: isinstance(event, SectionDone) and event.section == 2)
    job = queue.add(request_)
    worker = Worker(queue, ScriptedExecutor(queue.output_dir, hold))
    worker.start()
    assert hold.reached.wait(5)
    threading.Timer(0.05, hold.go.set).start()
    assert worker.stop(5)
    assert not worker.alive
    queue.close()

    queue = JobQueue(queue.output_dir)
    assert queue.job(job.id).state == "interrupted"
    queue.go_on(job.id)
    worker = Worker(queue, ScriptedExecutor(queue.output_dir))
    worker.start()
    assert ended(queue, job).state == "done"
    assert worker.stop(5)


def test_a_video_that_was_finished_before_the_program_was_killed_is_done(queue: JobQueue, request_: Request) -> None:
    """The files are there, and the queue was not told any more."""
    job = queue.add(request_)
    queue.claim()
    for event in ScriptedExecutor(queue.output_dir).submit(request_, None).events():
        if not isinstance(event, Ended):
            queue.record(job.id, event)
    queue.close()

    queue = JobQueue(queue.output_dir)
    told = queue.job(job.id)
    assert (told.state, told.progress.folder, told.progress.frames) == ("done", None, 109)
    assert probe(queue.result(job.id)).frames == 109
    queue.close()


def test_a_checkpoint_that_cannot_be_loaded_fails_the_job_in_words(queue: JobQueue, request_: Request) -> None:
    def missing(source: str) -> Any:
        raise UnusableCheckpoint("the checkpoint is not there")

    worker = Worker(queue, LocalExecutor(missing, missing, queue.output_dir))  # type: ignore[arg-type]
    job = queue.add(request_)
    worker.start()
    assert ended(queue, job).progress.error == "the checkpoint is not there"
    assert worker.stop(5)


def test_the_heartbeat_tells_a_worker_that_hangs(queue: JobQueue, request_: Request) -> None:
    hold = Hold(lambda event: isinstance(event, Started))
    worker = Worker(queue, ScriptedExecutor(queue.output_dir, hold))
    worker.start()
    queue.add(request_)
    assert hold.reached.wait(5)
    before = worker.heartbeat_age_seconds()
    wait_until(lambda: worker.heartbeat_age_seconds() > before + 0.05)
    hold.go.set()
    wait_until(lambda: worker.heartbeat_age_seconds() < before + 0.05)
    assert worker.stop(5)


def test_a_stop_after_the_section_means_the_one_that_is_sampled() -> None:
    """The one before may be done only after the stop has come."""

    def job_at(event: Event) -> Job:
        request = Request.parse({"picture": "-", "seconds": 3.6, "steps": 2})
        return replace(Job(1, request, "running", 0.0, 0.0), stop="section").after(event, 0.0)

    wish = StopWish()
    job = job_at(Step(section=2, sections=3, step=1, steps=2, computed=True))
    assert not wish.counts(job, Preview(section=2, step=1, path="p"))
    for section, counts in ((1, False), (2, True)):
        done = SectionDone(section=section, sections=3, frames=1, path="v")
        job = job.after(done, 0.0)
        assert wish.counts(job, done) is counts
        assert job.progress.section == 2, "what is sampled is where the run is"
        assert job.progress.sections_done == section
    last = SectionDone(section=3, sections=3, frames=1, path="v")
    assert not wish.counts(job, last)
