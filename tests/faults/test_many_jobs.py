"""Two hundred short jobs in one process, every tenth one failing: threads, open files and memory stay as they were."""

from __future__ import annotations

import gc
import threading
from collections import deque
from pathlib import Path

import psutil
import pytest

from diffusers_helper import faults
from diffusers_helper.jobs.queue import JobQueue

from ..jobs_support import local_executor, make_picture, make_request, wait_until, working
from ..parity.engine import PackEngine

WARM_UP, JOBS = 40, 200
MORE_MEMORY_MB = 10


def test_two_hundred_short_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = ", ".join(f"decode=out_of_memory@{number}" for number in range(5, JOBS + 1, 10))
    monkeypatch.setenv(faults.VARIABLE, failures)
    faults.armed.cache_clear()
    queue = JobQueue(tmp_path / "outputs")
    request = make_request(make_picture(tmp_path), seconds=1.0, steps=1)
    engine = PackEngine("run_i2v")
    engine.decoded, engine.contexts = deque(maxlen=1), deque(maxlen=1)  # type: ignore[assignment]
    with working(queue, local_executor(engine, queue.output_dir)):
        for number in range(JOBS):
            queue.add(request.model_copy(update={"prompt": f"number {number}"}))
        wait_until(lambda: ended_jobs(queue) >= WARM_UP, "the first jobs")
        before = what_is_held()
        wait_until(lambda: ended_jobs(queue) == JOBS, "the last job", seconds=120)
        after = what_is_held()
    assert sorted({job.state for job in queue.jobs()}) == ["done", "failed"]
    assert sum(job.state == "failed" for job in queue.jobs()) == JOBS // 10
    assert after["threads"] <= before["threads"]
    assert after["files"] <= before["files"] + 1
    assert after["memory_mb"] - before["memory_mb"] < MORE_MEMORY_MB


def ended_jobs(queue: JobQueue) -> int:
    return sum(job.state not in ("queued", "running") for job in queue.jobs())


def what_is_held() -> dict[str, float]:
    gc.collect()
    process = psutil.Process()
    return {
        "threads": threading.active_count(),
        "files": process.num_fds(),
        "memory_mb": process.memory_info().rss / 2**20,
    }
