"""A job fails in the middle of the queue: in plain words, one section is lost at most, and the next job runs."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffusers_helper import faults
from diffusers_helper.errors import OutputFailed
from diffusers_helper.events import Event, SectionDone
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.media.video import probe, read_frames
from diffusers_helper.request import Request

from ..jobs_support import (
    Hold,
    ScriptedExecutor,
    at_step,
    ended,
    make_picture,
    make_request,
    pack_executor,
    working,
)
from .test_disk import fill


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return make_request(make_picture(tmp_path))


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    faults.armed.cache_clear()


@pytest.mark.parametrize(
    ("fault", "sections_done", "words"),
    [
        pytest.param("worker=raise", 0, "RuntimeError: the fault asked for at worker", id="worker"),
        pytest.param("encode=out_of_memory", 0, "ran out of memory; close other programs", id="memory, encode"),
        pytest.param("step=out_of_memory@4", 1, "ran out of memory; close other programs", id="memory, sampling"),
        pytest.param("decode=out_of_memory@2", 1, "ran out of memory; close other programs", id="memory, decode"),
        pytest.param("step=nan@3", 1, "section 2, step 1: the model produced NaN", id="broken numbers"),
        pytest.param("checkpoint=disk_full@2", 1, "the disk is full", id="disk, saving a section"),
        pytest.param("mux=disk_full@2", 1, "the disk is full", id="disk, the video so far"),
        pytest.param("mux=disk_full@3", 2, "the disk is full", id="disk, the finished video"),
    ],
)
def test_a_fault_fails_one_job_and_it_goes_on_to_the_same_frames(
    fault: str, sections_done: int, words: str, request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(faults.VARIABLE, fault)
    queue = JobQueue(tmp_path / "outputs")
    broken, unbroken = queue.add(request_), queue.add(request_)
    with working(queue, pack_executor(queue.output_dir)) as worker:
        failed = ended(queue, broken.id)
        assert failed.state == "failed"
        assert words in (failed.progress.error or "")
        assert failed.progress.sections_done == sections_done
        assert ended(queue, unbroken.id).state == "done"
        assert (queue.go_on if failed.can_go_on else queue.retry)(broken.id).state == "queued"
        assert ended(queue, broken.id).state == "done"
        assert worker.alive
    assert np.array_equal(*(read_frames(queue.result(job.id)) for job in (broken, unbroken)))
    assert list(queue.output_dir.rglob(".*.part*")) == []


def test_a_full_disk_takes_no_picture_and_no_job(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(faults.VARIABLE, "upload=disk_full")
    queue = JobQueue(tmp_path / "outputs")
    with pytest.raises(OutputFailed, match="the disk is full"):
        queue.add(request_)
    assert queue.jobs() == []
    queue.add(request_)
    assert len(queue.jobs()) == 1


def test_a_really_full_disk(request_: Request, mounted: Callable[[str], Path]) -> None:
    """Latents, videos and the queue's own file are on it: what happened is written once there is space."""
    disk = mounted("50m")
    queue = JobQueue(disk)
    hold = Hold(lambda event: isinstance(event, SectionDone))
    job = queue.add(request_)
    with working(queue, ScriptedExecutor(disk, hold)) as worker:
        assert hold.reached.wait(5)
        filler = fill(disk)
        with pytest.raises(OutputFailed, match="disk is full"):
            queue.add(make_request(make_picture(disk.parent, "navy")))
        hold.go.set()
        failed = ended(queue, job.id)
        assert failed.state == "failed"
        assert "the disk is full" in (failed.progress.error or "")
        assert worker.alive
        filler.unlink()
        later = ended(queue, queue.add(request_).id)
        assert later.state == "done"
    queue.close()
    queue = JobQueue(disk)
    assert [(each.id, each.state) for each in queue.jobs()] == [(later.id, "done"), (job.id, "failed")]
    assert queue.notices == ()
    assert_goes_on(queue, job)


def test_a_disk_that_turns_read_only(request_: Request, mounted: Callable[[str], Path], tmp_path: Path) -> None:
    """With the queue's file elsewhere: a system lets no disk turn read-only while a file on it is written."""
    disk = mounted("51m")
    (tmp_path / "own").mkdir()
    (disk / ".framepack").symlink_to(tmp_path / "own")
    queue = JobQueue(disk)
    hold = Hold(lambda event: isinstance(event, SectionDone))
    job = queue.add(request_)
    with working(queue, ScriptedExecutor(disk, hold)) as worker:
        assert hold.reached.wait(5)
        remount(disk, "ro")
        hold.go.set()
        failed = ended(queue, job.id)
        assert failed.state == "failed"
        assert "cannot be written" in (failed.progress.error or "")
        assert worker.alive
        remount(disk, "rw")
        assert ended(queue, queue.add(request_).id).state == "done"
    assert_goes_on(queue, job)


def test_a_read_only_disk_does_not_keep_the_queue_from_opening(
    request_: Request, mounted: Callable[[str], Path]
) -> None:
    disk = mounted("52m")
    queue = JobQueue(disk)
    kept = queue.add(request_)
    queue.close()
    remount(disk, "ro")
    queue = JobQueue(disk)
    assert "memory only" in str(queue.notices[0])
    with pytest.raises(OutputFailed, match="cannot be written"):
        queue.add(make_request(make_picture(disk.parent, "navy")))
    queue.close()
    remount(disk, "rw")
    queue = JobQueue(disk)
    assert [job.id for job in queue.jobs()] == [kept.id]
    queue.close()


def test_a_removed_output_folder_costs_what_was_in_it(request_: Request, tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "outputs")
    hold = Hold(at_step(2, 1))
    job = queue.add(request_)
    with working(queue, ScriptedExecutor(queue.output_dir, hold)) as worker:
        assert hold.reached.wait(5)
        shutil.rmtree(queue.output_dir)
        hold.go.set()
        failed = ended(queue, job.id)
        assert failed.state == "failed"
        assert "does not exist" in (failed.progress.error or "")
        assert not failed.can_go_on
        assert worker.alive
        later = ended(queue, queue.add(request_).id)
        assert later.state == "done"
    queue.close()
    again = JobQueue(queue.output_dir)
    assert later.id in [each.id for each in again.jobs()]
    assert probe(again.result(later.id)).frames == 73


def test_pictures_stay_while_jobs_come_and_go(tmp_path: Path) -> None:
    """Two threads add and remove jobs with pictures of their own; none loses its picture to the other's tidying."""
    queue = JobQueue(tmp_path / "outputs")
    missing: list[Path] = []

    def come_and_go(colours: list[str]) -> None:
        for colour in colours:
            job = queue.add(make_request(make_picture(tmp_path, colour)))
            if not queue.picture(job.id).is_file():
                missing.append(queue.picture(job.id))
            queue.remove(job.id)

    colours = [[f"#{thread}{number:02}0{thread}0" for number in range(40)] for thread in range(2)]
    threads = [threading.Thread(target=come_and_go, args=(part,)) for part in colours]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []


def assert_goes_on(queue: JobQueue, job: Job) -> None:
    """From its first section, to the end."""
    starts: list[Event] = []
    queue.go_on(job.id)
    with working(queue, ScriptedExecutor(queue.output_dir, starts.append)):
        assert ended(queue, job.id).state == "done"
    assert starts[0].as_dict()["sections_done"] == 1
    assert probe(queue.result(job.id)).frames == 73
    queue.close()


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)
