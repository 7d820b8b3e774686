"""Two jobs that are compared: what the other one is, that they know each other, also in a file, and what is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.caches.auto import AutoOption
from diffusers_helper.errors import InvalidCommand, UnusablePicture
from diffusers_helper.jobs.job import Job, State
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.store import FILE
from diffusers_helper.jobs.twins import counterpart
from diffusers_helper.request import DRAW_A_SEED, Request
from tests.jobs_support import ScriptedExecutor, ended, make_request, working


def without_cache(request: Request) -> Request:
    return request.model_copy(update={"step_cache": None})


@pytest.mark.parametrize(
    ("asked", "other"),
    [
        ({"step_cache": "magcache", "magcache_k": 3}, None),
        ({"step_cache": "auto"}, None),
        ({"step_cache": "off"}, AutoOption()),
        ({"step_cache": "magcache", "magcache_calibration": True}, AutoOption()),
    ],
)
def test_the_counterpart_differs_in_the_step_cache_alone(picture: Path, asked: dict[str, Any], other: Any) -> None:
    request = make_request(picture, prompt="a wave", **asked)
    found = counterpart(request)
    assert found.step_cache == other
    assert without_cache(found) == without_cache(request)


def test_twins_have_one_seed_and_know_each_other(queue: JobQueue, picture: Path) -> None:
    queue.add(make_request(picture))
    one, other = queue.add_twins(make_request(picture, seed=DRAW_A_SEED, step_cache="teacache"))
    assert (one.twin, other.twin) == (other.id, one.id)
    assert one.request.seed == other.request.seed != DRAW_A_SEED
    assert [job.id for job in queue.jobs()][-2:] == [one.id, other.id]
    assert other.request.step_cache is None
    assert queue.add(make_request(picture)).id == other.id + 1


def done(queue: JobQueue, picture: Path, **fields: Any) -> Job:
    job = queue.add(make_request(picture, **fields))
    with working(queue, ScriptedExecutor(queue.output_dir)):
        return ended(queue, job.id)


def test_a_finished_job_gets_a_twin_with_the_seed_that_was_drawn(queue: JobQueue, picture: Path) -> None:
    job = done(queue, picture, seed=DRAW_A_SEED)
    twin = queue.add_twin(job.id)
    assert (twin.twin, queue.job(job.id).twin) == (job.id, twin.id)
    assert twin.request.seed == job.progress.seed
    assert queue.job(job.id).state == "done"


@pytest.mark.parametrize("state", ["queued", "running", "failed", "cancelled"])
def test_only_a_finished_job_gets_one(queue: JobQueue, picture: Path, state: State) -> None:
    job = queue.add(make_request(picture))
    with queue._changed:
        queue._ledger.write(replace(job, state=state))
    with pytest.raises(InvalidCommand, match="only finished jobs are compared"):
        queue.add_twin(job.id)
    assert len(queue.jobs()) == 1


def test_a_picture_that_is_gone_makes_no_half_of_a_pair(queue: JobQueue, tmp_path: Path) -> None:
    with pytest.raises(UnusablePicture):
        queue.add_twins(make_request(tmp_path / "gone.png"))
    assert queue.jobs() == []


def test_twins_know_each_other_after_a_new_start_and_out_of_the_trash(queue: JobQueue, picture: Path) -> None:
    one, other = queue.add_twins(make_request(picture))
    queue.trash(other.id)
    queue.restore(other.id)
    queue.close()
    again = JobQueue(queue.output_dir)
    assert [(job.id, job.twin) for job in again.jobs()] == [(one.id, other.id), (other.id, one.id)]


def test_a_file_of_the_version_before_has_none(queue: JobQueue, picture: Path) -> None:
    one, _ = queue.add_twins(make_request(picture))
    queue.close()
    with closing(sqlite3.connect(queue.output_dir / ".framepack" / FILE)) as file:
        file.executescript(
            "ALTER TABLE job DROP COLUMN twin; ALTER TABLE job DROP COLUMN batch; "
            "ALTER TABLE job DROP COLUMN work; PRAGMA user_version = 4;"
        )
    again = JobQueue(queue.output_dir)
    assert again.notices == ()
    assert [job.twin for job in again.jobs()] == [0, 0]
    assert again.add_twins(one.request)[0].twin == 4
