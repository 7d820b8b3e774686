"""A training as a job: kept, stopped, broken off and gone on with, and what is not for it refused in words."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import FramePackError, InvalidCommand, InvalidRequest
from diffusers_helper.events import Event, Learning, Saved, Validated
from diffusers_helper.jobs.job import Job, Keep
from diffusers_helper.jobs.job_progress import MOST_POINTS, JobProgress, fold
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.store import FILE
from diffusers_helper.training.order import TrainingOrder

from ..jobs_support import Hold, ScriptedExecutor, ended, make_order, make_request, wait_until, working


def at(step: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Learning) and event.step == step


def played(queue: JobQueue, job: Job, after: Callable[[Event], None] = lambda event: None) -> Job:
    with working(queue, ScriptedExecutor(queue.output_dir, after)):
        return ended(queue, job.id)


def stopped_at(queue: JobQueue, job: Job, step: int, keep: Keep = "now") -> Job:
    """A job that a user stops after this step, so at the end of the next one."""
    hold = Hold(at(step))
    with working(queue, ScriptedExecutor(queue.output_dir, hold)):
        assert hold.reached.wait(10)
        queue.cancel(job.id, keep)
        hold.go.set()
        return ended(queue, job.id)


def broken_off_at(queue: JobQueue, step: int) -> JobQueue:
    """The queue as another start of the program finds it, after this one was killed at this step."""
    hold = Hold(at(step))
    with working(queue, ScriptedExecutor(queue.output_dir, hold)):
        assert hold.reached.wait(10)
        with closing(sqlite3.connect(queue.output_dir / ".framepack" / FILE)) as file:
            dump = "\n".join(file.iterdump())
        hold.go.set()
        ended(queue, 1)
    queue.close()
    found = queue.output_dir.parent / "again" / ".framepack" / FILE
    found.parent.mkdir(parents=True)
    with closing(sqlite3.connect(found)) as file:
        file.executescript(f"{dump}\nPRAGMA application_id = {0x46504A42}; PRAGMA user_version = 7;")
    return JobQueue(found.parent.parent)


def test_a_training_is_done_and_kept(queue: JobQueue, tmp_path: Path) -> None:
    """Its progress is the same after a start: how far, which file, and the curve."""
    job = played(queue, queue.add_training(make_order(tmp_path), "pocket"))
    assert (job.state, job.title, job.checkpoint) == ("done", "mine", "pocket")
    assert job.progress.lora == str(tmp_path / "models" / "lora" / "mine.safetensors")
    assert [step for step, _, _ in job.progress.curve] == [1, 2, 3, 4]
    assert not job.can_go_on
    queue.close()
    again = JobQueue(queue.output_dir).job(job.id)
    assert (again.work, again.progress) == (job.work, job.progress)
    assert again.snapshot() == job.snapshot()
    assert (again.snapshot()["work"], again.snapshot()["step"], again.snapshot()["steps"]) == ("training", 4, 4)


def test_a_stop_keeps_what_was_learnt_and_going_on_begins_there(queue: JobQueue, tmp_path: Path) -> None:
    job = stopped_at(queue, queue.add_training(make_order(tmp_path, steps=6)), 3)
    assert (job.state, job.can_go_on, job.progress.step_number) == ("cancelled", True, 4)
    assert Path(job.progress.lora or "").is_file()
    queue.go_on(job.id)
    executor, steps = ScriptedExecutor(queue.output_dir), list[int]()
    executor.after = lambda event: steps.append(event.step) if isinstance(event, Learning) else None
    with working(queue, executor):
        assert ended(queue, job.id).state == "done"
    assert steps == [5, 6]
    assert [step for step, _, _ in queue.job(job.id).progress.curve] == [1, 2, 3, 4, 5, 6]
    (order, folder) = executor.submitted[0]
    assert isinstance(order, TrainingOrder)
    assert (order.resume, folder) == (str(make_order(tmp_path).state), None)


def test_a_stop_that_keeps_nothing_puts_all_files_away(queue: JobQueue, tmp_path: Path) -> None:
    job = stopped_at(queue, queue.add_training(make_order(tmp_path, save_every_n_steps=2)), 2, "nothing")
    assert (job.state, job.can_go_on, job.progress.lora) == ("cancelled", False, None)
    assert list((tmp_path / "models" / "lora").iterdir()) == []
    names = sorted(file.name for file in (queue.output_dir / "trash").iterdir())
    assert names == ["mine-000002.safetensors", "mine.safetensors", "mine.state.safetensors"]


def test_a_retry_begins_anew(queue: JobQueue, tmp_path: Path) -> None:
    job = stopped_at(queue, queue.add_training(make_order(tmp_path, steps=6)), 3)
    queue.retry(job.id)
    executor = ScriptedExecutor(queue.output_dir)
    with working(queue, executor):
        assert ended(queue, job.id).state == "done"
    ((order, _),) = executor.submitted
    assert isinstance(order, TrainingOrder)
    assert order.resume is None


def test_after_a_crash_it_goes_on_from_its_last_state(queue: JobQueue, tmp_path: Path) -> None:
    """What was seen after the last state is not known any more, and is learnt again."""
    queue.add_training(make_order(tmp_path, steps=9, save_every_n_steps=2))
    queue = broken_off_at(queue, 5)
    state = make_order(tmp_path).state
    state.write_text("4")  # as it was when the program was killed
    job = queue.job(1)
    assert (job.state, job.can_go_on, job.progress.saved and job.progress.saved.step) == ("interrupted", True, 4)
    queue.go_on(1)
    executor, steps = ScriptedExecutor(queue.output_dir), list[int]()
    executor.after = lambda event: steps.append(event.step) if isinstance(event, Learning) else None
    with working(queue, executor):
        assert ended(queue, 1).state == "done"
    assert steps == [5, 6, 7, 8, 9]
    assert [step for step, _, _ in queue.job(1).progress.curve] == list(range(1, 10))


def test_a_failure_is_told_and_the_next_job_runs(queue: JobQueue, tmp_path: Path, picture: Path) -> None:
    def breaks(event: Event) -> None:
        if isinstance(event, Learning):
            raise FramePackError("the loss is no number")

    job, video = queue.add_training(make_order(tmp_path)), queue.add(make_request(picture))
    with working(queue, ScriptedExecutor(queue.output_dir, breaks)):
        assert (ended(queue, job.id).state, ended(queue, video.id).state) == ("failed", "done")
    assert queue.job(job.id).progress.error == "the loss is no number"


def test_the_end_of_the_program_interrupts_it(queue: JobQueue, tmp_path: Path) -> None:
    hold = Hold(at(2))
    job = queue.add_training(make_order(tmp_path))
    with working(queue, ScriptedExecutor(queue.output_dir, hold)) as worker:
        assert hold.reached.wait(10)
        worker.begin_to_stop()
        hold.go.set()
        wait_until(lambda: not worker.alive)
    assert (queue.job(job.id).state, queue.job(job.id).can_go_on) == ("interrupted", True)


def test_a_name_is_given_once(queue: JobQueue, tmp_path: Path) -> None:
    """To a training that waits, to a file, and to a state that another training could go on from."""
    order = make_order(tmp_path)
    job = queue.add_training(order)
    with pytest.raises(InvalidRequest) as refused:
        queue.add_training(order)
    assert [problem.field for problem in refused.value.problems] == ["out"]
    queue.remove(job.id)
    Path(order.out).parent.mkdir(parents=True)
    for file in (Path(order.out), order.state):
        file.touch()
        with pytest.raises(InvalidRequest, match="Give another name"):
            queue.add_training(order)
        file.unlink()
    assert queue.add_training(order).state == "queued"


def test_it_is_deleted_and_comes_back(queue: JobQueue, tmp_path: Path) -> None:
    """With all its files, and no other training's."""
    job = played(queue, queue.add_training(make_order(tmp_path)))
    folder = tmp_path / "models" / "lora"
    others = ["mine-000003.safetensors", "mine-other.safetensors", "mine_samples"]
    for name in others:
        (folder / name).touch()
    before = sorted(folder.iterdir())
    queue.trash(job.id)
    assert sorted(file.name for file in folder.iterdir()) == others
    queue.restore(job.id)
    assert (sorted(folder.iterdir()), queue.job(job.id)) == (before, job)


def test_one_that_never_began_takes_nothing_with_it(queue: JobQueue, tmp_path: Path) -> None:
    """Not even what has its own names by now."""
    order = make_order(tmp_path)
    job = queue.add_training(order)
    Path(order.out).parent.mkdir(parents=True)
    for file in (Path(order.out), order.state):
        file.touch()
    queue.cancel(job.id)
    queue.trash(job.id)
    assert Path(order.out).exists()
    assert order.state.exists()


def test_the_order_of_the_queue_holds_for_it(queue: JobQueue, tmp_path: Path, picture: Path) -> None:
    video, job = queue.add(make_request(picture)), queue.add_training(make_order(tmp_path))
    queue.run_next(job.id)
    assert [each.id for each in queue.jobs()] == [job.id, video.id]


def test_what_is_for_videos_is_refused_in_words(queue: JobQueue, tmp_path: Path, picture: Path) -> None:
    job = queue.add_training(make_order(tmp_path))
    refused: dict[str, Callable[[], Any]] = {
        "duplicate": lambda: queue.duplicate(job.id),
        "edit": lambda: queue.edit(job.id, make_request(picture)),
        "picture": lambda: queue.picture(job.id),
    }
    for act, does in refused.items():
        with pytest.raises(InvalidCommand, match=f"job {job.id} is a training"):
            does()
        assert queue.job(job.id) == job, act


def test_pictures_of_others_are_tidied_up_beside_it(queue: JobQueue, tmp_path: Path, picture: Path) -> None:
    video, job = queue.add(make_request(picture)), queue.add_training(make_order(tmp_path))
    queue.remove(job.id)
    assert queue.picture(video.id).is_file()


@pytest.mark.parametrize("column", ["work", "request"])
def test_a_row_that_is_no_training_costs_no_other(column: str, queue: JobQueue, tmp_path: Path, picture: Path) -> None:
    job, video = queue.add_training(make_order(tmp_path)), queue.add(make_request(picture))
    queue.close()
    with closing(sqlite3.connect(queue.output_dir / ".framepack" / FILE)) as file:
        file.execute(f"UPDATE job SET {column} = ?1 WHERE id = ?2", (json.dumps({"steps": 0}), job.id))  # noqa: S608
        file.commit()
    again = JobQueue(queue.output_dir)
    assert ([each.id for each in again.jobs()], [each.id for each in again.unreadable]) == ([video.id], [job.id])
    assert str(again.unreadable[0].reason)


def told(step: int, steps: int) -> Learning:
    return Learning(step=step, steps=steps, loss=1 / step, smooth=0.5, rate=1e-4, norm=1.0, seconds_left=1.0)


def test_looks_at_what_is_held_out_are_kept() -> None:
    """Of a run that went on earlier, as far as it began."""
    progress = JobProgress()
    for step, loss in ((0, 0.9), (5, 0.5), (10, 0.4), (5, 0.6)):
        levels = {"levels": [0.5], "losses": [loss]}
        progress = fold(progress, Validated(step=step, steps=10, loss=None, validation_loss=loss, **levels))
    assert progress.held_out == ((0, 0.9), (5, 0.6))
    assert JobProgress.from_dict(progress.as_dict()) == progress


def test_a_curve_is_thinned_and_ends_with_the_training() -> None:
    progress = JobProgress(loading=True)
    for step in range(1, 10_001):
        progress = fold(progress, told(step, 10_000))
    assert len(progress.curve) <= MOST_POINTS + 2
    assert (progress.curve[0][0], progress.curve[-1][0], progress.phase) == (1, 10_000, "learning")
    again = fold(progress, told(5_001, 10_000))
    assert again.curve[-1][0] < 5_001, "what a run before had seen later is not of this training"
    assert fold(again, Saved(step=5, path="a", state="b")).lora == "a"
