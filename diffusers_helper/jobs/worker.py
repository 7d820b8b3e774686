"""The one thread that owns the device: takes the next job, runs it, writes down what it tells."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from .. import faults
from ..errors import FramePackError, says_gpu_is_lost
from ..events import Cancelled, Decoding, Ended, Event, Failed, Finished, SectionDone
from .executor import Execution, Executor
from .job import Job, State
from .queue import JobQueue

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
GPU_LOST = (
    "The GPU stopped working at job {job}, so no further job is begun. Start the program again; then jobs are begun "
    "again, and job {job} can go on."
)


class Worker:
    """Runs the jobs of a queue one after another, until it is stopped."""

    def __init__(self, queue: JobQueue, executor: Executor) -> None:
        self._queue, self._executor = queue, executor
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="framepack-worker", daemon=True)
        self._beat()

    @property
    def alive(self) -> bool:
        """Whether the thread runs, or has yet to begin."""
        return self._thread.ident is None or self._thread.is_alive()

    def heartbeat_age_seconds(self) -> float:
        """Time since the last event, or since it last looked for work."""
        return time.monotonic() - self._beaten_at

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Stop between two steps; the running job becomes interrupted. Returns whether that was within the time."""
        self._stopping.set()
        self._queue.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _beat(self) -> None:
        self._beaten_at = time.monotonic()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beat()
            job = self._queue.claim()
            if job is None:
                self._queue.wait(IDLE_SECONDS)
                continue
            last = self._carry_out(job)
            if isinstance(last, Failed) and last.gpu_lost:
                self._queue.rest(GPU_LOST.format(job=job.id))
            self._queue.end(job.id, last, self._state(last))

    def _carry_out(self, job: Job) -> Ended:
        """Run one job; returns its last event, whatever happens."""
        try:
            faults.passing("worker")
            folder = Path(job.progress.folder) if job.progress.folder else None
            return self._follow(job, self._executor.submit(job.request, folder, job.checkpoint))
        except FramePackError as error:
            return _failed(job, str(error), error.exit_code)
        except Exception as error:
            log.exception("job %d", job.id)
            return replace(_failed(job, f"{type(error).__name__}: {error}", 1), gpu_lost=says_gpu_is_lost(error))

    def _follow(self, job: Job, execution: Execution) -> Ended:
        """Write down the events; returns the last one, which is not yet written down."""
        with closing(execution.events()) as events:
            for event in events:
                self._beat()
                if isinstance(event, Ended):
                    return event
                job = self._queue.told(job.id, event)
                if self._stopping.is_set() or _stop_wanted(job, event):
                    execution.cancel()
        return _failed(job, "the job ended without saying how", 1)

    def _state(self, last: Ended) -> State:
        if isinstance(last, Finished):
            return "done"
        if isinstance(last, Cancelled):
            return "interrupted" if self._stopping.is_set() else "cancelled"
        return "failed"


def _stop_wanted(job: Job, event: Event) -> bool:
    """Whether to stop at this event. After the last section only the finished video is left to be made: it is."""
    if isinstance(event, Decoding | SectionDone) and event.section == event.sections:
        return job.stop == "nothing"
    return job.stop in ("now", "nothing") or (job.stop == "section" and isinstance(event, SectionDone))


def _failed(job: Job, error: str, exit_code: int) -> Failed:
    return Failed(error=error, exit_code=exit_code, folder=job.progress.folder)
