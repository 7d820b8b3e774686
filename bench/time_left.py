"""The time left that the page tells, against what was left.

    python -m bench.time_left [--jobs 5] [--clock wall|processor] [--write]

A queue in a folder of its own, a worker and the embedded checkpoint, as under the page: a first job, of which nothing
is known beforehand, then jobs of 1 to 4 seconds in both kinds. While each runs, what the page would show is looked at
several times a second: the time that was told last, counted down since. Prints told / left at a quarter, a half and
three quarters of each job, loading of the models included; None where no time was told yet.

Beside other busy programs the time left depends on what those will do. ``--clock processor`` counts the seconds that
the processor works for this program, not those on the wall; both are told and left in the same ones.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data

from bench.machine import ROOT, machine, tell
from diffusers_helper import generate
from diffusers_helper.engine import Engine
from diffusers_helper.jobs.executor import LocalExecutor
from diffusers_helper.jobs.job import ENDED
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.worker import Worker
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.progress import Progress
from diffusers_helper.request import Request

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.time, "processor": time.process_time}
LENGTHS = (1.0, 2.0, 4.0, 3.0, 1.0)
POINTS = (0.25, 0.5, 0.75)
LOOK_SECONDS = 0.1
STOP_SECONDS = 60.0


def main() -> None:
    """Run the jobs one after another and print what was told of each."""
    parser = argparse.ArgumentParser(description="The time told against the time left.")
    parser.add_argument("--jobs", type=int, default=len(LENGTHS), help="jobs after the first")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    generate.Progress = functools.partial(Progress, clock=clock)
    rows = list(_measure([LENGTHS[number % len(LENGTHS)] for number in range(options.jobs)], clock))
    report = {
        "command": f"python -m bench.time_left --jobs {options.jobs} --clock {options.clock}",
        "machine": machine(),
        "first": rows[0],
        "told_over_left": rows[1:],
        "farthest": max((row["farthest"] for row in rows[1:]), default=None),
    }
    tell(report, "time_left" if options.write else None)


def _measure(lengths: list[float], clock: Callable[[], float]) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = folder / "photo.png"
        Image.fromarray(data.astronaut()).save(picture)
        checkpoint = find_checkpoint("pocket", ROOT / "hf_download")
        queue = JobQueue(folder / "outputs", lambda source: checkpoint, clock)
        executor = LocalExecutor(lambda source: checkpoint, Engine.load, queue.output_dir, queue.paces)
        worker = Worker(queue, executor)
        worker.start()
        for number, seconds in enumerate([lengths[0] if lengths else 1.0, *lengths]):
            kind = ("f1", "framepack")[number % 2]
            fields = {"picture": str(picture), "prompt": "the camera pans left", "seconds": seconds, "kind": kind}
            row = _watch(queue, queue.add(Request.parse(fields)).id, clock)
            sys.stderr.write(f"{row}\n")
            yield {"seconds": seconds, "kind": kind, **row}
        if worker.stop(STOP_SECONDS):
            executor.close()
        queue.close()


def _watch(queue: JobQueue, job_id: int, clock: Callable[[], float]) -> dict[str, Any]:
    """told / left of one job, by the share of it that was over."""
    looks: list[tuple[float, float | None]] = []
    while (job := queue.job(job_id)).state not in ENDED:
        looks.append((clock(), job.ready_at))
        time.sleep(LOOK_SECONDS)
    if job.state != "done" or job.started_at is None or job.ended_at is None:
        raise SystemExit(f"job {job_id} is {job.state}: {job.progress.error}")
    took = job.ended_at - job.started_at
    told = {share: _told(looks, job.started_at + share * took, job.ended_at) for share in POINTS}
    errors = [abs(ratio - 1) for ratio in told.values() if ratio is not None]
    farthest = round(max(errors), 3) if errors else None
    return {"took_seconds": round(took, 1), "told_over_left": told, "farthest": farthest}


def _told(looks: list[tuple[float, float | None]], at: float, end: float) -> float | None:
    """What was shown at ``at``, over what was left then."""
    seen, ready_at = [look for look in looks if look[0] <= at][-1]
    return None if ready_at is None else round(max(ready_at - seen, 0.0) / (end - seen), 2)


if __name__ == "__main__":
    main()
