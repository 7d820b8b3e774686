"""A queue file of an earlier version, kept as it was written: every job is read, and says what it said then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.job_progress import JobProgress
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.store import FILE, JobStore

KEPT = Path(__file__).resolve().parent.parent / "kept" / "v1"
SAID = json.loads((KEPT / "jobs.json").read_text(encoding="utf-8"))
"""What the program that wrote it said of its jobs: as they are ``kept``, and once they are ``opened``."""
OPENED_AT = 1_770_000_000.0
NOT_SAID = {"kind": "the request has it"}
NEW = ("executor", "batch", "work")
"""What a program is told of a job since then."""
TOTALS = ("seconds_total", "seconds_sampling", "seconds_decoding", "steps_computed", "steps_reused")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An output folder with the kept file."""
    outputs = tmp_path / "outputs"
    (outputs / ".framepack").mkdir(parents=True)
    shutil.copy(KEPT / "jobs.sqlite3", outputs / ".framepack" / FILE)
    return outputs


def as_said(job: Job, outputs: Path) -> dict[str, Any]:
    """The job as the program said it that wrote the file."""

    def seen(path: str | None) -> str | None:
        return str(Path(path).relative_to(outputs)) if path else path

    facts = ("id", "state", "place", "stop", "created_at", "started_at", "ended_at", "checkpoint")
    return {
        "job": {name: getattr(job, name) for name in facts},
        "progress": flat(job.progress, seen),
        "ready_at": job.ready_at,
        "fraction": job.fraction,
        "snapshot": {name: value for name, value in job.snapshot().items() if name not in NEW},
        "prompt": job.request.prompt,
        "picture": seen(job.request.shown_picture),
    }


def flat(told: JobProgress, seen: Any) -> dict[str, Any]:
    """A progress with one value for each thing that is said."""
    same = (
        "checkpoint", "sections", "steps", "frames_planned", "fps", "seconds", "width", "height", "memory", "section",
        "sections_done", "sections_before", "seconds_left", "told_at", "previews", "frames", "error", "seed",
        "seconds_loading",
    )  # fmt: skip
    return {
        **{name: getattr(told, name) for name in same},
        **{name: getattr(told.totals, name) for name in TOTALS},
        "started": told.started is not None and not told.loading,
        "step": told.step_number,
        "decoding": told.is_decoding,
        "computed": list(told.computed),
        "notices": [notice.message for notice in told.notices],
        "preview": seen(told.preview_path),
        "video": seen(told.video),
        "folder": seen(told.folder),
    }


def expected(said: dict[str, Any]) -> dict[str, Any]:
    """What was said then, but for what is not said any more."""
    waits = dict.fromkeys(TOTALS, 0) if said["job"]["state"] == "queued" else {}
    progress = {name: value for name, value in said["progress"].items() if name not in NOT_SAID}
    names = ("job", "ready_at", "fraction", "snapshot", "picture")
    return {
        **{name: said[name] for name in names},
        "progress": {**progress, **waits},
        "prompt": said["request"]["prompt"],
    }


def test_every_kept_job_is_read_as_it_was_written(outputs: Path) -> None:
    store = JobStore(outputs / ".framepack" / FILE, outputs)
    read = [as_said(job, outputs) for job in store.read()[0]]
    assert read == [expected(said) for said in SAID["kept"]]
    assert {said["job"]["state"] for said in SAID["kept"]} > {"queued", "running", "done", "failed", "cancelled"}
    store.close()


@pytest.mark.parametrize("openings", [1, 2])
def test_a_kept_queue_opens_and_stays_the_same(outputs: Path, openings: int) -> None:
    """Also once it was written by this program."""
    for _ in range(openings):
        queue = JobQueue(outputs, clock=lambda: OPENED_AT)
        assert (queue.notices, queue.paused) == ((), SAID["paused"])
        assert [as_said(job, outputs) for job in queue.jobs()] == [expected(said) for said in SAID["opened"]]
        assert queue.events(1)[0]["event"] == "started"
        queue.close()
