"""Kill -9 in sampling, saving, decoding and joining: one section is lost at most, and never a finished file."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from diffusers_helper.jobs.executor import Executor
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.media.video import probe, read_frames

from ..jobs_support import ScriptedExecutor, ended, make_picture, make_request, pack_executor, working
from ..program import IMPORTED
from . import jobs_program

FRAMES_OF_ONE_SECTION = 33


def run_until_killed(output_dir: Path, picture: Path, fault: str) -> None:
    """A process of its own adds a job, works on it, and is killed."""
    process = IMPORTED.Process(target=jobs_program.main, args=(output_dir, picture, fault))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def work_off(queue: JobQueue, job: Job, executor: Executor) -> Path:
    """The finished video of a queued job."""
    with working(queue, executor):
        assert ended(queue, job.id).state == "done"
    return queue.result(job.id)


def playable_frames(folder: Path) -> int:
    """Frames of the video so far, all decoded; 0 when there is none yet."""
    video = folder / "video.mp4"
    return len(read_frames(video)) if video.exists() else 0


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The frames of a run that nothing broke."""
    home = tmp_path_factory.mktemp("unbroken")
    queue = JobQueue(home / "outputs")
    return read_frames(work_off(queue, queue.add(make_request(make_picture(home))), pack_executor(queue.output_dir)))


@pytest.mark.parametrize(
    ("fault", "sections_kept"),
    [
        pytest.param("step=kill@4", 1, id="sampling"),
        pytest.param("checkpoint=kill@2", 1, id="saving a section"),
        pytest.param("decode=kill@2", 2, id="decoding"),
        pytest.param("mux=kill@2", 2, id="joining the video so far"),
        pytest.param("mux=kill@3", 2, id="joining the finished video"),
    ],
)
def test_a_killed_job_goes_on_to_the_same_frames(
    fault: str,
    sections_kept: int,
    tmp_path: Path,
    unbroken: np.ndarray,
) -> None:
    """All are killed in the second of two sections; what is kept of it depends on whether its latents were saved."""
    outputs, picture = tmp_path / "outputs", make_picture(tmp_path)
    queue = JobQueue(outputs)
    finished = work_off(queue, queue.add(make_request(picture)), ScriptedExecutor(outputs))
    queue.close()

    run_until_killed(outputs, picture, fault)

    queue = JobQueue(outputs)
    (job, earlier) = queue.jobs()
    assert (job.state, job.can_go_on, earlier.state) == ("interrupted", True, "done")
    folder = Path(job.progress.folder or "")
    assert len(list(folder.glob("section_*.safetensors"))) == sections_kept
    assert playable_frames(folder) >= FRAMES_OF_ONE_SECTION
    assert [path for path in outputs.rglob("*.mp4") if path.parent != folder] == [finished]
    assert list(outputs.rglob(".*.part*")) == []

    video = work_off(queue, queue.go_on(job.id), pack_executor(outputs))
    assert np.array_equal(read_frames(video), unbroken)
    assert probe(finished).frames > 0
    assert not folder.exists()
