"""The threads that own the devices, one each: take the next job, run it, write down what it tells."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from .. import faults
from ..errors import ExecutorLost, FramePackError, says_gpu_is_lost, unforeseen
from ..events import Cancelled, Decoding, Event, Failed, Finished, Last, Learnt, SectionDone
from ..words import Message
from .executor import Execution, Executor
from .job import Job, State
from .queue import JobQueue

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0


class Worker:
    """Runs the jobs of a queue one after another, until it is stopped."""

    def __init__(self, queue: JobQueue, executor: Executor, name: str = "") -> None:
        """``name``: of the executor, where there are several."""
        self._queue, self._executor, self._name = queue, executor, name
        queue.employ(name)
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
        self.begin_to_stop()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def begin_to_stop(self) -> None:
        """The same without waiting for it."""
        self._stopping.set()
        self._queue.wake()

    def _beat(self) -> None:
        self._beaten_at = time.monotonic()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beat()
            job = self._queue.claim(self._name, self._executor.keeps_models)
            if job is None:
                self._queue.wait(IDLE_SECONDS)
                continue
            last, state = self._carry_out(job)
            if isinstance(last, Failed) and last.gpu_lost:
                self._queue.halt(self._name, self._gpu_lost(job))
            self._queue.end(job.id, last, state)

    def _gpu_lost(self, job: Job) -> Message:
        if self._name:
            return Message("queue_notice.one_gpu_lost", job=job.id, executor=self._name)
        return Message("queue_notice.gpu_lost", job=job.id)

    def _carry_out(self, job: Job) -> tuple[Last, State]:
        """Run one job; returns its last event, whatever happens, and what it has become."""
        try:
            faults.passing("worker")
            folder = Path(job.progress.folder) if job.progress.folder else None
            work = job.order.as_far_as_it_is() if job.order else job.work
            last = self._follow(job, self._executor.submit(work, folder, job.checkpoint))
            return last, self._state(job, last)
        except ExecutorLost as error:
            if self._was_stopped(job):
                return Cancelled(folder=self._queue.job(job.id).progress.folder or ""), "cancelled"
            return _failed(job, error.said, error.exit_code), "interrupted"
        except FramePackError as error:
            return _failed(job, error.said, error.exit_code), "failed"
        except Exception as error:
            log.exception("job %d", job.id)
            failed = _failed(job, unforeseen(error), 1)
            return replace(failed, gpu_lost=says_gpu_is_lost(error)), "failed"

    def _follow(self, job: Job, execution: Execution) -> Last:
        """Write down the events; returns the last one, which is not yet written down."""
        wish = StopWish()
        with closing(execution.events()) as events:
            for event in events:
                self._beat()
                if isinstance(event, Last):
                    return event
                job = self._queue.record(job.id, event)
                if self._stopping.is_set() or wish.counts(job, event):
                    execution.cancel()
        return _failed(job, Message("failure.no_end"), 1)

    def _state(self, job: Job, last: Last) -> State:
        """What a job is that ended so. One that was stopped by nobody who may stop it was broken off."""
        if isinstance(last, Finished) or (isinstance(last, Learnt) and last.step >= last.steps):
            return "done"
        if isinstance(last, Cancelled | Learnt):
            return "cancelled" if self._was_stopped(job) else "interrupted"
        return "failed"

    def _was_stopped(self, job: Job) -> bool:
        """Whether a user has stopped it, and not the program's end."""
        return self._queue.job(job.id).stop is not None and not self._stopping.is_set()


class Workers:
    """A worker for each executor; of several, each job says which has it."""

    def __init__(self, queue: JobQueue, executors: Mapping[str, Executor]) -> None:
        """``executors``: by what people call them."""
        several = len(executors) > 1
        self._all = [Worker(queue, executor, name if several else "") for name, executor in executors.items()]
        self._executors = tuple(executors.values())

    def heartbeat_age_seconds(self) -> float:
        """Of the one that is silent for the longest; infinite when one has ended."""
        return max(worker.heartbeat_age_seconds() if worker.alive else math.inf for worker in self._all)

    def start(self) -> None:
        """Begin to take jobs."""
        for worker in self._all:
            worker.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Stop all between two steps; returns whether that was within the time. What has stopped is closed."""
        end = time.monotonic() + timeout_seconds
        for worker in self._all:
            worker.begin_to_stop()
        stopped = [worker.stop(max(end - time.monotonic(), 0.0)) for worker in self._all]
        for executor, has_stopped in zip(self._executors, stopped, strict=True):
            if has_stopped:
                executor.close()
        return all(stopped)


class StopWish:
    """What a user's stop comes to at each event of a run."""

    def __init__(self) -> None:
        self._section: int | None = None

    def counts(self, job: Job, event: Event) -> bool:
        """Whether to stop at this event. After the last section only the finished video is left to be made: it is.

        With the section that was running when the stop came: the one before it may be done after that. A training has
        no sections: it stops after its step.
        """
        if job.order:
            return job.stop is not None
        if job.stop == "section" and self._section is None:
            self._section = job.progress.section
        if isinstance(event, Decoding | SectionDone) and event.section == event.sections:
            return job.stop == "nothing"
        if job.stop == "section":
            return isinstance(event, SectionDone) and event.section >= (self._section or 0)
        return job.stop in ("now", "nothing")


def _failed(job: Job, error: Message, exit_code: int) -> Failed:
    return Failed.of(error, exit_code=exit_code, folder=job.progress.folder)
