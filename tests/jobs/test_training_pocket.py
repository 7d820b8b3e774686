"""Trainings of the real pocket as jobs: in this process, with videos before and after; and in one of their own."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from diffusers_helper.engine import Engine
from diffusers_helper.jobs.executor import LocalExecutor
from diffusers_helper.jobs.process_executor import ProcessExecutor
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.lora.header import read_header
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from diffusers_helper.settings import resolve
from diffusers_helper.training.order import TrainingOrder

from ..jobs_support import ended, make_order, make_picture, make_request, wait_until, working

SECONDS = 300.0


@pytest.fixture
def order(tmp_path: Path) -> TrainingOrder:
    """Two steps on a teal picture that turns red."""
    for part, colour in (("ctl", "teal"), ("img", "red")):
        (tmp_path / part).mkdir()
        make_picture(tmp_path, colour).rename(tmp_path / part / "one.png")
    (tmp_path / "img" / "one.txt").write_text("it turns red", encoding="utf-8")
    sets = ['image_directory="img"', 'control_directory="ctl"', "resolution=[64, 64]"]
    (tmp_path / "sets.toml").write_text("\n".join(["[[datasets]]", *sets]), encoding="utf-8")
    (tmp_path / "models" / "lora").mkdir(parents=True)
    fast = {"steps": 2, "guidance_scale": 10.0, "network_dim": 1, "save_every_n_steps": 1}
    return make_order(tmp_path, data=str(tmp_path / "sets.toml"), **fast)


@pytest.fixture
def checkpoint(quick_checkpoint: Path, tmp_path: Path) -> Checkpoint:
    return find_checkpoint(str(quick_checkpoint), tmp_path / "models")


def test_a_training_has_an_engine_to_itself(order: TrainingOrder, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The video after it is the one before it, bit for bit. It was stopped after its first step, and went on."""
    settings = resolve({"models_dir": str(tmp_path / "models")}, {}, tmp_path / "none.json")
    loaded: list[weakref.ref[Engine]] = []
    alive_before: list[int] = []

    def load(checkpoint: Checkpoint) -> Engine:
        gc.collect()
        alive_before.append(sum(one() is not None for one in loaded))
        engine = Engine.load(checkpoint, settings)
        loaded.append(weakref.ref(engine))
        return engine

    queue = JobQueue(tmp_path / "outputs", lambda source: checkpoint)
    request = make_request(make_picture(tmp_path), kind="f1", seconds=1.0, steps=1)
    order = order.model_copy(update={"steps": 9})
    before, job, after = queue.add(request), queue.add_training(order), queue.add(request)
    with working(queue, LocalExecutor(lambda source: checkpoint, load, queue.output_dir)):
        wait_until(lambda: queue.job(job.id).progress.learning, "a step", SECONDS)
        queue.cancel(job.id)
        stopped = ended(queue, job.id, SECONDS)
        assert (stopped.state, stopped.can_go_on) == ("cancelled", True)
        videos = [ended(queue, each.id, SECONDS).progress.video for each in (before, after)]
        queue.go_on(job.id)
        done = ended(queue, job.id, SECONDS)
    assert Path(videos[0] or "").read_bytes() == Path(videos[1] or "").read_bytes()
    assert alive_before == [0, 0, 0, 0], "each engine is gone before the next is loaded"
    assert (done.state, [step for step, _, _ in done.progress.curve]) == ("done", list(range(1, 10)))
    assert read_header(Path(done.progress.lora or "")).metadata["ss_steps"] == "9"


def test_a_process_of_its_own_trains(order: TrainingOrder, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """By the command, which reads the order from its standard input."""
    places = {"HF_HOME": str(tmp_path / "models"), "CUDA_VISIBLE_DEVICES": ""}
    executor = ProcessExecutor(lambda source: checkpoint, places)
    queue = JobQueue(tmp_path / "outputs", lambda source: checkpoint)
    job = queue.add_training(order)
    with working(queue, executor):
        done = ended(queue, job.id, SECONDS)
    assert (done.state, done.progress.error, done.progress.step_number) == ("done", None, 2)
    assert Path(done.progress.lora or "").is_file()
    assert [event["step"] for event in queue.events(job.id) if event["event"] == "saved"] == [1, 2]
