"""Which checkpoints there are, which is chosen, and that each job is made by the one it was queued for."""

from __future__ import annotations

import gc
import json
import shutil
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusers_helper.errors import InvalidRequest, UnusableCheckpoint
from diffusers_helper.events import Cancelled, Finished, Started
from diffusers_helper.jobs.checkpoints import Checkpoints
from diffusers_helper.jobs.executor import LocalExecutor
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.media.fit import Fitted
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from diffusers_helper.settings import resolve
from diffusers_helper.workfolder import WorkFolder

from ..jobs_support import ended, make_picture, make_request, working


@pytest.fixture
def other(pocket: Path, tmp_path: Path) -> Path:
    """A second checkpoint: the pocket under another name, and of one kind and size only."""
    folder = Path(shutil.copytree(pocket, tmp_path / "other"))
    told = json.loads((folder / "framepack.json").read_text())
    told.update(kinds=["framepack"], buckets=[[64, 64]], about={"title": "Another.", "default_seconds": 1.5})
    (folder / "framepack.json").write_text(json.dumps(told))
    return folder


def checkpoints_of(tmp_path: Path, initial: str) -> Checkpoints:
    return Checkpoints(lambda name: find_checkpoint(name, tmp_path), initial, tmp_path / "chosen.json")


@pytest.fixture
def checkpoints(other: Path, tmp_path: Path) -> Checkpoints:
    return checkpoints_of(tmp_path, str(other))


@pytest.fixture
def queue(checkpoints: Checkpoints, tmp_path: Path) -> Iterator[JobQueue]:
    queue = JobQueue(tmp_path / "outputs", checkpoints.get)
    yield queue
    queue.close()


def test_installed_are_the_complete_ones_that_of_the_settings_first(checkpoints: Checkpoints) -> None:
    assert [checkpoint.name for checkpoint in checkpoints.installed()] == ["other", "pocket"]
    assert checkpoints.find().name == "other"


@pytest.mark.parametrize("name", ["framepack", "nobody", "", "/etc", "../pocket", "x" * 999])
def test_no_other_can_be_chosen(checkpoints: Checkpoints, name: str) -> None:
    with pytest.raises(UnusableCheckpoint, match=r"checkpoint: .* is not installed here; installed are other, pocket"):
        checkpoints.choose(name)
    assert checkpoints.find().name == "other"


def test_a_folder_is_chosen_by_its_name_and_never_by_its_path(checkpoints: Checkpoints, other: Path) -> None:
    with pytest.raises(UnusableCheckpoint):
        checkpoints.choose(str(other))
    assert checkpoints.choose("other").source == str(other)


def test_a_choice_outlives_a_restart_until_the_settings_name_another(other: Path, tmp_path: Path) -> None:
    checkpoints_of(tmp_path, str(other)).choose("pocket")
    assert checkpoints_of(tmp_path, str(other)).find().name == "pocket"
    assert str(checkpoints_of(tmp_path, "framepack").problem).startswith("checkpoint 'framepack'")
    shutil.rmtree(other)
    checkpoints_of(tmp_path, "pocket").choose("pocket")
    assert checkpoints_of(tmp_path, "pocket").find().name == "pocket"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "5", '{"chosen": 5, "instead_of": "pocket"}', '{"chosen": "gone"}', "[" * 100_000],
    ids=lambda content: content[:30],
)
def test_a_kept_choice_that_makes_no_sense_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "chosen.json").write_text(content)
    assert checkpoints_of(tmp_path, "pocket").find().name == "pocket"


def test_what_is_downloaded_or_removed_counts_at_once(checkpoints: Checkpoints, other: Path, tmp_path: Path) -> None:
    other.rename(tmp_path / "elsewhere")
    assert checkpoints.get() is None
    assert "neither a name nor a folder" in str(checkpoints.problem)
    assert [checkpoint.name for checkpoint in checkpoints.installed()] == ["pocket"]
    (tmp_path / "elsewhere").rename(other)
    assert checkpoints.find().name == "other"


def test_a_job_keeps_the_checkpoint_it_was_queued_for(
    queue: JobQueue, checkpoints: Checkpoints, other: Path, tmp_path: Path
) -> None:
    request = make_request(make_picture(tmp_path), kind="framepack")
    first = queue.add(request)
    checkpoints.choose("pocket")
    second, third = queue.add(request), queue.duplicate(first.id)
    assert [job.checkpoint for job in (first, second, third)] == [str(other), "pocket", str(other)]
    assert [job.snapshot()["checkpoint"] for job in (first, second, third)] == ["other", "pocket", "other"]
    assert queue.edit(first.id, request.model_copy(update={"prompt": "x"})).checkpoint == str(other)
    queue.close()
    again = JobQueue(queue.output_dir, checkpoints.get)
    assert [job.checkpoint for job in again.jobs()] == [str(other), "pocket", str(other)]
    again.close()


def test_a_request_is_held_against_the_checkpoint_it_is_for(queue: JobQueue, tmp_path: Path) -> None:
    request = make_request(make_picture(tmp_path), kind="f1")
    with pytest.raises(InvalidRequest, match="'f1' is not made by checkpoint other"):
        queue.add(request)
    assert queue.add(request, "pocket").checkpoint == "pocket"


def opened_as_version_1(queue: JobQueue) -> JobQueue:
    """The queue again, after its file was as the program wrote it that knew one checkpoint."""
    queue.close()
    for name in ("jobs.sqlite3", "jobs.backup.sqlite3"):
        (queue.output_dir / ".framepack" / name).with_name(f"{name}-wal").unlink(missing_ok=True)
    with closing(sqlite3.connect(queue.output_dir / ".framepack" / "jobs.sqlite3")) as file:
        for column in ("checkpoint", "executor", "twin", "batch", "work"):
            file.execute(f"ALTER TABLE job DROP COLUMN {column}")
        file.execute("PRAGMA user_version = 1")
    return JobQueue(queue.output_dir, queue._checkpoint)


def test_a_queue_file_of_the_version_before_is_read_and_its_jobs_run_with_the_chosen_one(
    queue: JobQueue, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    job = queue.add(make_request(make_picture(tmp_path), kind="framepack"))
    again = opened_as_version_1(queue)
    assert again.notices == ()
    assert (again.job(job.id).request, again.job(job.id).checkpoint) == (job.request, "")
    assert checkpoints.find(again.job(job.id).checkpoint).name == "other"
    again.close()


def test_a_job_of_an_earlier_version_goes_on_with_the_checkpoint_it_was_begun_with(
    queue: JobQueue, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """Its queue file names none, its work folder does."""
    request = make_request(make_picture(tmp_path), kind="framepack", seconds=1.0, steps=1)
    job, begun_with, loaded = queue.add(request), checkpoints.find(), []

    def load(checkpoint: Checkpoint) -> Any:
        loaded.append(checkpoint.name)
        raise UnusableCheckpoint("this was to be seen")

    picture = Fitted(np.zeros((64, 64, 3), np.uint8))
    folder = WorkFolder.create(queue.output_dir, request, begun_with, begun_with.fingerprint(), [picture], 0)
    queue.claim()
    queue.record(job.id, Started(folder=str(folder.path), seed=5, sections_done=0))
    queue.end(job.id, Cancelled(folder=str(folder.path)), "cancelled")
    checkpoints.choose("pocket")
    again = opened_as_version_1(queue)
    assert again.go_on(job.id).checkpoint == ""
    with working(again, LocalExecutor(checkpoints.find, load, queue.output_dir)):
        assert ended(again, job.id, seconds=300).progress.error == "this was to be seen"
    again.close()
    assert loaded == [begun_with.name] == ["other"]


def test_each_job_is_made_by_its_own_checkpoint_on_one_engine_at_a_time(
    queue: JobQueue, checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two real checkpoints in turn; the one before is gone when the next is loaded."""
    from diffusers_helper.engine import Engine

    settings = resolve({"models_dir": str(tmp_path)}, {}, tmp_path / "none.json")
    loaded: list[weakref.ref[Any]] = []
    closed: list[str] = []
    monkeypatch.setattr(Engine, "close", lambda engine: closed.append(engine.checkpoint.name))
    alive_before: list[int] = []

    def load(checkpoint: Checkpoint) -> Engine:
        gc.collect()
        alive_before.append(sum(one() is not None for one in loaded))
        engine = Engine.load(checkpoint, settings)
        loaded.extend((weakref.ref(engine), weakref.ref(engine.parts.transformer)))
        return engine

    request = make_request(make_picture(tmp_path), kind="framepack", seconds=1.0, steps=1)
    other = checkpoints.named("other").source
    jobs = [queue.add(request, source).id for source in (other, "pocket")]
    with working(queue, LocalExecutor(checkpoints.find, load, queue.output_dir)):
        done = [ended(queue, job, seconds=300) for job in jobs]
    assert [(job.state, job.progress.checkpoint, job.progress.width) for job in done] == [
        ("done", "other", 64), ("done", "pocket", 128),
    ]  # fmt: skip
    assert (alive_before, closed) == ([0, 0], ["other"])


def with_other_weights(checkpoint: Path) -> None:
    """Put a file in the place of the transformer's, as a download does: of the same size, and one bit is another."""
    weights = checkpoint / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[-50] ^= 1
    (checkpoint / "new").write_bytes(whole)
    (checkpoint / "new").replace(weights)


def test_a_checkpoint_whose_files_change_is_loaded_anew_and_a_video_is_of_the_files_that_were_loaded(
    checkpoints: Checkpoints, other: Path, tmp_path: Path
) -> None:
    from diffusers_helper.engine import Engine

    settings = resolve({"models_dir": str(tmp_path)}, {}, tmp_path / "none.json")
    loaded: list[str] = []

    def load(checkpoint: Checkpoint) -> Engine:
        loaded.append(checkpoint.fingerprint())
        engine = Engine.load(checkpoint, settings)
        if len(loaded) == 2:
            with_other_weights(other)
        return engine

    def begun() -> str:
        """The weights that the next video says it is of."""
        with closing(executor.submit(request, None, "").events()) as events:
            started = next(events)
            assert isinstance(started, Started)
            return WorkFolder.reopen(Path(started.folder)).manifest.fingerprint

    executor = LocalExecutor(checkpoints.find, load, tmp_path / "outputs")
    request = make_request(make_picture(tmp_path), kind="framepack", seconds=1.0, steps=1)
    assert [begun(), begun()] == loaded * 2
    with_other_weights(other)
    assert begun() == loaded[1] != loaded[0], "changed between two jobs"
    assert begun() == loaded[2] == loaded[0], "changed while they were loaded"
    assert len(loaded) == 3


def test_an_engine_that_fails_to_close_serves_nobody(
    queue: JobQueue, checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ..parity.engine import PackEngine

    loaded: list[str] = []

    def load(checkpoint: Checkpoint) -> PackEngine:
        loaded.append(checkpoint.name)
        engine = PackEngine("run_i2v")
        engine.checkpoint, engine.fingerprint = checkpoint, checkpoint.fingerprint()
        return engine

    def close(engine: PackEngine) -> None:
        raise RuntimeError("the driver refuses to unlock")

    monkeypatch.setattr(PackEngine, "close", close)
    executor = LocalExecutor(checkpoints.find, load, tmp_path)  # type: ignore[arg-type]
    other, pocket = checkpoints.find(checkpoints.named("other").source), checkpoints.find("pocket")
    executor._engine_of(other)
    with pytest.raises(RuntimeError, match="refuses to unlock"):
        executor._engine_of(pocket)
    executor._engine_of(other)
    assert loaded == ["other", "other"]


@pytest.mark.parametrize("failure", [None, RuntimeError("the GPU is lost")])
def test_a_closed_executor_has_let_its_engine_go(
    failure: Exception | None, checkpoints: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that cannot give anything back, which is told in the log."""
    from ..parity.engine import PackEngine

    closed: list[str] = []

    class Watched(PackEngine):
        def close(self) -> None:
            closed.append(self.checkpoint.name)
            if failure:
                raise failure

    engine = Watched("run_i2v")
    executor = LocalExecutor(checkpoints.find, lambda checkpoint: engine, tmp_path)
    executor.close()
    assert closed == []
    request = make_request(make_picture(tmp_path), kind="framepack", seconds=1.0, steps=1)
    assert isinstance(list(executor.submit(request, None, "").events())[-1], Finished)
    executor.close()
    executor.close()
    assert closed == [engine.checkpoint.name]
    assert ("could not be given back" in caplog.text) is bool(failure)


def test_a_job_whose_checkpoint_is_gone_fails_in_words_and_the_queue_goes_on(
    queue: JobQueue, checkpoints: Checkpoints, other: Path, tmp_path: Path
) -> None:
    from ..parity.engine import PackEngine

    engine = PackEngine("run_i2v")
    request = make_request(make_picture(tmp_path), kind="framepack", seconds=1.0, steps=1)
    lost, kept = queue.add(request).id, queue.add(request, "pocket").id
    shutil.rmtree(other)
    with working(queue, LocalExecutor(checkpoints.find, lambda checkpoint: engine, queue.output_dir)):
        failed, done = ended(queue, lost), ended(queue, kept)
    assert failed.state == "failed"
    assert str(failed.progress.error).startswith("This is for the checkpoint other, which is not installed any more: ")
    assert done.state == "done"


@pytest.mark.parametrize("content", ['{"weight_map": null}', '{"weight_map": {"a": 5}}', "[" * 100_000], ids=len)
def test_a_checkpoint_that_is_damaged_meanwhile_fails_its_jobs_alone(
    queue: JobQueue, checkpoints: Checkpoints, other: Path, tmp_path: Path, content: str
) -> None:
    from ..parity.engine import PackEngine

    engine = PackEngine("run_i2v")
    request = make_request(make_picture(tmp_path), kind="framepack", seconds=1.0, steps=1)
    lost, kept = queue.add(request).id, queue.add(request, "pocket").id
    (other / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(content)
    assert [checkpoint.name for checkpoint in checkpoints.installed()] == ["pocket"]
    with working(queue, LocalExecutor(checkpoints.find, lambda checkpoint: engine, queue.output_dir)):
        failed, done = ended(queue, lost), ended(queue, kept)
    assert (failed.state, done.state) == ("failed", "done")
    assert "index.json is damaged" in str(failed.progress.error)
