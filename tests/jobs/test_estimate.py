"""What the queue knows of a job's time: from earlier jobs before it runs, from what it tells while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.events import Cancelled, Decoding, Finished, Plan, SectionDone, Started, Step
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request
from tests.jobs_support import make_picture, make_request

CLIPS = 37 + 41
"""Frames decoded for a video of two F1 sections: 10 and 18 latent frames."""


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> JobQueue:
    return JobQueue(tmp_path / "outputs", lambda source: find_checkpoint(source or "pocket", tmp_path), clock)


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return make_request(make_picture(tmp_path), kind="f1", size="128x128", steps=10)


def begun(queue: JobQueue, clock: Clock, request: Request, loading: float = 0.0) -> Job:
    job = queue.add(request)
    queue.claim()
    clock.now += loading
    queue.record(job.id, Started(folder=str(queue.output_dir / "work"), seed=1, sections_done=0))
    plan = {"checkpoint": "pocket", "kind": "f1", "sections": 2, "steps": 10, "frames": 73, "fps": 30}
    queue.record(job.id, Plan(**plan, seconds=2.4, width=128, height=128))
    return job


def done(queue: JobQueue, clock: Clock, request: Request, loading: float = 0.0, **figures: Any) -> None:
    job = begun(queue, clock, request, loading)
    figures = {"seconds_sampling": 40.0, "seconds_decoding": CLIPS / 10, "seconds_total": 42.0 + CLIPS / 10, **figures}
    queue.end(job.id, Finished(path="x.mp4", **{"steps_computed": 15, "steps_reused": 5, **figures}), "done")


def test_an_estimate_is_learnt_from_what_this_machine_has_done(
    queue: JobQueue, clock: Clock, request_: Request
) -> None:
    assert queue.estimate(request_) is None
    done(queue, clock, request_)
    preparing, sampling, decoding = 2.0, 40.0, CLIPS / 10
    assert queue.estimate(request_) == pytest.approx(preparing + sampling + decoding)
    for change, expected in {
        ("steps", 20): preparing + 2 * sampling + decoding,
        ("real_cfg", 2.0): preparing + 2 * sampling + decoding,
        ("seconds", 4.8): preparing + 2 * sampling + (37 + 3 * 41) / 10,
        ("kind", "framepack"): preparing + sampling + (33 + 45) / 10,
        ("size", "256x128"): preparing + 2 * (sampling + decoding),
        ("step_cache", "off"): preparing + sampling * 20 / 15 + decoding,
    }.items():
        changed = Request.parse({**request_.flat(), change[0]: change[1]})
        assert queue.estimate(changed) == pytest.approx(expected), change


def test_a_job_that_was_done_in_two_goes_teaches_nothing(queue: JobQueue, clock: Clock, request_: Request) -> None:
    done(queue, clock, request_, steps_computed=7, steps_reused=3)
    assert queue.estimate(request_) is None


def test_the_latest_jobs_count(queue: JobQueue, clock: Clock, request_: Request) -> None:
    for seconds in (400.0, *[40.0] * 5):
        done(queue, clock, request_, seconds_sampling=seconds)
    assert queue.paces(request_).step == pytest.approx(40.0 / 15 / (128 * 128 * 9))


def test_a_job_has_a_time_from_its_first_moment(queue: JobQueue, clock: Clock, request_: Request) -> None:
    """As soon as one was done; and with the models' loading, in a process that has not loaded them."""
    job = begun(queue, clock, request_, loading=9.0)
    assert (queue.job(job.id).ready_at, queue.job(job.id).fraction) == (None, None)
    figures = {"seconds_sampling": 20.0, "seconds_decoding": 10.0, "seconds_total": 30.0}
    queue.end(job.id, Finished(path="x.mp4", steps_computed=15, steps_reused=5, **figures), "done")

    warm = queue.add(request_)
    queue.claim()
    assert (queue.job(warm.id).ready_at, queue.job(warm.id).fraction) == (clock.now + 30.0, 0.0)
    queue.close()

    again = JobQueue(queue.output_dir, queue._checkpoint, clock)
    again.retry(warm.id)
    again.claim()
    assert again.job(warm.id).ready_at == clock.now + 39.0
    again.close()


def test_what_a_job_tells_counts_from_when_it_was_told(queue: JobQueue, clock: Clock, request_: Request) -> None:
    job = begun(queue, clock, request_)
    clock.now += 10
    step = {"section": 1, "sections": 2, "step": 1, "steps": 10, "computed": True}
    told = queue.record(job.id, Step(**step, seconds_left=30.0))
    clock.now += 5
    assert (told.ready_at, told.fraction) == (1040.0, 0.25)
    snapshot = queue.job(job.id).snapshot()
    assert (snapshot["ready_at"], snapshot["fraction"]) == (1040.0, 0.25)
    told = queue.record(job.id, Decoding(section=1, sections=2, seconds_left=35.0))
    assert (told.ready_at, told.fraction, told.progress.phase) == (1050.0, 0.3, "decoding")


def test_what_an_earlier_run_has_finished_counts(queue: JobQueue, clock: Clock, request_: Request) -> None:
    """A job that goes on begins where it was; its last section's frames are made again."""
    done(queue, clock, request_)
    job = begun(queue, clock, request_)
    queue.record(job.id, SectionDone(section=1, sections=2, frames=37, path="x.mp4", seconds_left=20.0))
    work = queue.output_dir / "work"
    work.mkdir()
    (work / "job.json").write_text("{}")
    queue.cancel(job.id)
    queue.end(job.id, Cancelled(path="x.mp4", folder=str(work)), "cancelled")

    queue.go_on(job.id)
    queue.claim()
    whole = queue.estimate(request_)
    assert whole is not None
    assert (queue.job(job.id).ready_at, queue.job(job.id).fraction) == (pytest.approx(clock.now + whole / 2), 0.5)
    queue.record(job.id, Started(folder=str(work), seed=1, sections_done=1))
    clock.now += 10
    told = queue.record(job.id, Decoding(section=1, sections=2, seconds_left=30.0))
    assert (told.progress.phase, told.fraction) == ("decoding", 0.5 + 0.5 * 0.25)
