"""The queue's commands: what each does to which jobs, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_helper.errors import InvalidCommand, InvalidRequest, OutputFailed, UnknownJob, UnusablePicture
from diffusers_helper.events import Cancelled, Failed, Finished, Notice, Plan, SectionDone, Started, Step
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.trash import UNDO_SECONDS
from diffusers_helper.models.table import find_checkpoint
from tests.jobs_support import make_request


def add(queue: JobQueue, picture: Path, *prompts: str) -> list[Job]:
    return [queue.add(make_request(picture, prompt=prompt)) for prompt in prompts]


def order(queue: JobQueue) -> list[str]:
    return [job.request.prompt for job in queue.jobs()]


def run_to_failure(queue: JobQueue, folder: Path | None = None) -> Job:
    """The next job, failed as the worker would write it down."""
    job = queue.claim()
    assert job
    if folder:
        folder.mkdir(parents=True)
        (folder / "job.json").write_text("{}")
        (folder / "video.mp4").write_bytes(b"frames")
        queue.record(job.id, Started(folder=str(folder), seed=1, sections_done=0))
        queue.record(job.id, SectionDone(section=1, sections=2, frames=37, path=str(folder / "video.mp4")))
    failed = Failed(error="it broke", exit_code=1, folder=str(folder) if folder else None)
    return queue.end(job.id, failed, "failed")


def test_jobs_are_taken_in_the_order_they_came(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a", "b", "c")
    assert [queue.claim().request.prompt for _ in range(3)] == ["a", "b", "c"]  # type: ignore[union-attr]
    assert queue.claim() is None


@pytest.mark.parametrize(
    ("moved", "before", "expected"),
    [(2, 0, "cabd"), (0, 3, "bcad"), (0, None, "bcda"), (3, 1, "adbc"), (1, 1, "abcd")],
)
def test_moving(queue: JobQueue, picture: Path, moved: int, before: int | None, expected: str) -> None:
    jobs = add(queue, picture, *"abcd")
    queue.move(jobs[moved].id, jobs[before].id if before is not None else None)
    assert order(queue) == list(expected)


def test_run_next(queue: JobQueue, picture: Path) -> None:
    jobs = add(queue, picture, *"abc")
    queue.run_next(jobs[2].id)
    assert order(queue) == ["c", "a", "b"]


def test_the_order_survives_a_restart(queue: JobQueue, picture: Path) -> None:
    jobs = add(queue, picture, *"abc")
    queue.move(jobs[2].id, jobs[0].id)
    queue.close()
    assert order(JobQueue(queue.output_dir)) == ["c", "a", "b"]


def test_a_running_job_shows_above_the_queue_and_ended_ones_below_it(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "fails first", "fails second", "runs", "waits")
    run_to_failure(queue)
    run_to_failure(queue)
    queue.claim()
    assert order(queue) == ["runs", "waits", "fails second", "fails first"]


def test_the_queue_keeps_its_own_copy_of_the_picture(queue: JobQueue, picture: Path) -> None:
    (job,) = add(queue, picture, "a")
    content = picture.read_bytes()
    picture.unlink()
    assert queue.picture(job.id).read_bytes() == content
    assert queue.thumbnail(job.id).read_bytes().startswith(b"\x89PNG")


def test_a_picture_goes_with_the_last_job_that_needs_it(queue: JobQueue, picture: Path) -> None:
    one, two = add(queue, picture, "a", "b")
    kept = queue.picture(one.id)
    queue.remove(one.id)
    assert kept.is_file()
    queue.remove(two.id)
    assert list(kept.parent.iterdir()) == []


def test_what_is_no_picture_is_refused_and_nothing_queued(queue: JobQueue, tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(UnusablePicture):
        queue.add(make_request(tmp_path / "page.png"))
    assert queue.jobs() == []


def test_what_the_checkpoint_cannot_make_is_refused_when_added(tmp_path: Path, picture: Path) -> None:
    queue = JobQueue(tmp_path / "outputs", lambda source: find_checkpoint(source or "pocket", tmp_path))
    with pytest.raises(InvalidRequest, match="size: '999x999'"):
        queue.add(make_request(picture, size="999x999"))


def test_editing_changes_a_queued_job_in_its_place(queue: JobQueue, picture: Path) -> None:
    jobs = add(queue, picture, "a", "b")
    queue.edit(jobs[0].id, make_request(picture, prompt="better"))
    assert order(queue) == ["better", "b"]


def test_a_running_job_cannot_be_edited_moved_or_removed(queue: JobQueue, picture: Path) -> None:
    (job,) = add(queue, picture, "a")
    queue.claim()
    for command in (
        lambda: queue.edit(job.id, make_request(picture)),
        lambda: queue.move(job.id, None),
        lambda: queue.remove(job.id),
        lambda: queue.trash(job.id),
        lambda: queue.retry(job.id),
    ):
        with pytest.raises(InvalidCommand, match=f"job {job.id} is running"):
            command()


def test_a_duplicate_is_the_same_request_at_the_end(queue: JobQueue, picture: Path) -> None:
    jobs = add(queue, picture, "a", "b")
    copy = queue.duplicate(jobs[0].id)
    assert copy.request == jobs[0].request
    assert order(queue) == ["a", "b", "a"]


def test_numbers_are_never_given_twice(queue: JobQueue, picture: Path) -> None:
    (job,) = add(queue, picture, "a")
    queue.remove(job.id)
    assert add(queue, picture, "b")[0].id > job.id


def test_an_unknown_job_is_named(queue: JobQueue) -> None:
    with pytest.raises(UnknownJob, match="no job 41"):
        queue.cancel(41)


def test_a_paused_queue_begins_nothing_also_after_a_restart(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a")
    queue.pause()
    assert queue.claim() is None
    queue.close()
    again = JobQueue(queue.output_dir)
    assert again.paused
    assert again.claim() is None
    again.unpause()
    assert again.claim()


def test_cancelling_a_queued_job_ends_it_at_once(queue: JobQueue, picture: Path) -> None:
    (job,) = add(queue, picture, "a")
    queue.cancel(job.id)
    assert queue.job(job.id).state == "cancelled"
    with pytest.raises(InvalidCommand, match="is cancelled already"):
        queue.cancel(job.id)


def test_cancelling_a_running_job_is_a_wish_until_it_has_stopped(queue: JobQueue, picture: Path) -> None:
    (job,) = add(queue, picture, "a")
    queue.claim()
    queue.cancel(job.id, "section")
    assert (queue.job(job.id).state, queue.job(job.id).stop) == ("running", "section")
    queue.end(job.id, Cancelled(folder="gone"), "cancelled")
    assert (queue.job(job.id).state, queue.job(job.id).stop) == ("cancelled", None)


def test_going_on_keeps_the_folder_and_retrying_begins_anew(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a", "b")
    going = run_to_failure(queue, queue.output_dir / "day" / "one")
    retried = run_to_failure(queue, queue.output_dir / "day" / "two")
    assert queue.go_on(going.id).progress.folder == going.progress.folder
    assert queue.retry(retried.id).progress.folder is None
    assert not Path(retried.progress.folder or "").exists()
    assert (queue.output_dir / "trash" / "two" / "video.mp4").is_file()


def test_a_job_that_is_to_go_on_tells_what_it_has_and_no_old_troubles(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a")
    failed = run_to_failure(queue, queue.output_dir / "day" / "one")
    assert failed.snapshot()["error"] == "it broke"
    shown = queue.go_on(failed.id).snapshot()
    assert (shown["state"], shown["error"], shown["section"], shown["frames"]) == ("queued", None, 0, 37)
    assert queue.claim() == queue.job(failed.id)
    assert queue.job(failed.id).progress.sections_done == 1


def test_without_a_folder_there_is_nothing_to_go_on_with(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a")
    failed = run_to_failure(queue)
    with pytest.raises(InvalidCommand, match="retry it instead"):
        queue.go_on(failed.id)


def test_all_failed_jobs_are_queued_again_in_their_order(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a", "b", "c")
    run_to_failure(queue)
    run_to_failure(queue, queue.output_dir / "day" / "one")
    assert queue.retry_failed() == 2
    assert order(queue) == ["c", "a", "b"]
    assert queue.jobs()[2].progress.folder


def test_a_done_job_is_not_retried(queue: JobQueue, picture: Path) -> None:
    (job,) = add(queue, picture, "a")
    queue.claim()
    queue.end(job.id, Finished(path="x.mp4"), "done")
    with pytest.raises(InvalidCommand, match="only failed, cancelled and interrupted"):
        queue.retry(job.id)


def test_removing_an_unfinished_job_deletes_its_work_only(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a")
    failed = run_to_failure(queue, queue.output_dir / "day" / "one")
    other = queue.output_dir / "day" / "other.mp4"
    other.write_bytes(b"somebody else's")
    queue.remove(failed.id)
    assert not Path(failed.progress.folder or "").exists()
    assert other.is_file()


def finished(queue: JobQueue, video: Path) -> Job:
    job = queue.claim()
    assert job
    video.parent.mkdir(parents=True, exist_ok=True)
    video.write_bytes(b"frames")
    video.with_suffix(".png").write_bytes(b"picture")
    return queue.end(job.id, Finished(path=str(video), frames=37), "done")


def test_removing_a_finished_job_leaves_its_video(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a")
    job = finished(queue, queue.output_dir / "day" / "v.mp4")
    queue.remove(job.id)
    assert (queue.output_dir / "day" / "v.mp4").is_file()


def test_the_trash_takes_video_and_picture_and_overwrites_nothing(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a", "b")
    for day in ("one", "two"):
        queue.trash(finished(queue, queue.output_dir / day / "v.mp4").id)
    assert sorted(file.name for file in (queue.output_dir / "trash").iterdir()) == [
        "v.mp4",
        "v.png",
        "v_1.mp4",
        "v_1.png",
    ]
    assert queue.jobs() == []


def test_what_was_trashed_comes_back_for_a_while(tmp_path: Path, picture: Path) -> None:
    now = [1000.0]
    queue = JobQueue(tmp_path / "outputs", clock=lambda: now[0])
    add(queue, picture, "a", "b")
    first, second = (finished(queue, queue.output_dir / day / "v.mp4") for day in ("one", "two"))
    for job in (first, second):
        queue.trash(job.id)
    assert queue.trashed == [second, first]
    assert queue.restore(first.id) == queue.job(first.id) == first
    assert sorted(file.name for file in (queue.output_dir / "one").iterdir()) == ["v.mp4", "v.png"]
    assert queue.picture(first.id).is_file(), "the start picture is kept as long as it may be needed"
    now[0] += UNDO_SECONDS
    assert queue.trashed == []
    with pytest.raises(InvalidCommand, match="any more"):
        queue.restore(second.id)


def test_nothing_is_overwritten_when_a_job_comes_back(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a")
    video = queue.output_dir / "day" / "v.mp4"
    job = finished(queue, video)
    queue.trash(job.id)
    video.write_bytes(b"another")
    with pytest.raises(OutputFailed, match="another"):
        queue.restore(job.id)
    assert video.read_bytes() == b"another"
    video.unlink()
    queue.restore(job.id)
    assert queue.result(job.id) == video


def test_nothing_outside_the_output_folder_is_touched(queue: JobQueue, picture: Path, tmp_path: Path) -> None:
    add(queue, picture, "a")
    queue.trash(finished(queue, tmp_path / "elsewhere" / "v.mp4").id)
    assert (tmp_path / "elsewhere" / "v.mp4").is_file()


def test_a_result_that_is_gone_is_said_to_be_gone(queue: JobQueue, picture: Path) -> None:
    add(queue, picture, "a")
    job = finished(queue, queue.output_dir / "day" / "v.mp4")
    assert queue.result(job.id).name == "v.mp4"
    queue.result(job.id).unlink()
    with pytest.raises(InvalidCommand, match="no video"):
        queue.result(job.id)


def test_every_change_makes_a_new_version_and_reading_makes_none(queue: JobQueue, picture: Path) -> None:
    seen = [queue.version]

    def changed() -> bool:
        seen.append(queue.version)
        return seen[-1] > seen[-2]

    (job,) = add(queue, picture, "a")
    assert changed()
    queue.jobs(), queue.job(job.id), queue.paused, queue.notices, queue.events(job.id)
    assert not changed()
    queue.claim()
    assert changed()
    queue.record(job.id, Step(section=1, sections=2, step=1, steps=2, computed=True, seconds_left=None))
    assert changed()


def test_a_job_tells_how_it_stands(queue: JobQueue, picture: Path) -> None:
    (job,) = add(queue, picture, "a cat")
    queue.claim()
    phases = [queue.job(job.id).snapshot()["phase"]]
    folder = queue.output_dir / "day" / "work"
    plan = {"checkpoint": "pocket", "kind": "f1", "sections": 2, "steps": 2, "frames": 73, "fps": 30}
    story = [
        Started(folder=str(folder), seed=7, sections_done=0),
        Plan(**plan, seconds=2.4, width=64, height=64),
        Notice(message="careful"),
        Step(section=1, sections=2, step=1, steps=2, computed=True, seconds_left=3.0),
        Step(section=1, sections=2, step=2, steps=2, computed=False, seconds_left=2.0),
        SectionDone(section=1, sections=2, frames=37, path=str(folder / "video.mp4")),
        Step(section=2, sections=2, step=1, steps=2, computed=True, seconds_left=1.0),
    ]
    phases += [queue.record(job.id, event).snapshot()["phase"] for event in story]
    assert phases == ["loading", "encoding", "encoding", "encoding", "sampling", "decoding", "sampling", "sampling"]
    told = queue.job(job.id)
    assert told.progress.computed == (True,)
    shown = told.snapshot()
    assert {name: shown[name] for name in ("state", "section", "sections", "step", "steps", "seconds_left")} == {
        "state": "running",
        "section": 2,
        "sections": 2,
        "step": 1,
        "steps": 2,
        "seconds_left": 1.0,
    }
    assert (shown["notices"], shown["error"], shown["seed"], shown["frames"]) == (["careful"], None, 7, 37)
    assert [event["event"] for event in queue.events(job.id)] == ["started", "plan", "notice", "section_done"]
