"""All that a page, a script or the worker may do to jobs. Thread-safe; no call takes long.

The jobs live in memory and every change is written through to the store; only single steps and previews are not, since
after a break a job goes on from its last finished section (``ledger.py``). ``version`` grows with every change, so a
reader that has seen a number has seen everything up to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InvalidCommand, InvalidRequest, OutputFailed, Problem
from ..events import Decoding, Encoded, Event, Last, Learning, Preview, Sampling, Step
from ..media.files import remove_partials
from ..media.places import linked_days
from ..models.table import Checkpoint
from ..preparation import check_offered
from ..request import Request
from ..training.order import TrainingOrder
from ..words import Message
from .job import Job, Keep, State, UnreadableJob
from .job_progress import JobProgress
from .pictures import PictureShelf
from .reader import OWN_FOLDER, QueueReader
from .results import in_trash, with_finished_video, without_results
from .twins import as_made, counterpart

log = logging.getLogger(__name__)


class JobQueue(QueueReader):
    """The jobs of one output folder."""

    def __init__(
        self,
        output_dir: Path,
        checkpoint: Callable[[str], Checkpoint | None] = lambda source: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the queue of ``output_dir``; what was running becomes interrupted. Raises AlreadyRunning.

        ``checkpoint``: of a source, the chosen one of an empty one; requests are held against it, once there is one.
        """
        super().__init__(output_dir, checkpoint, clock)
        self._shelf = PictureShelf(self.output_dir / OWN_FOLDER / "pictures")
        self._recover()

    # Commands.

    def add(self, request: Request, source: str = "") -> Job:
        """Queue ``request``, keeping a copy of its picture. ``source``: its checkpoint's, by default the chosen one's.

        Raises:
            InvalidRequest: the checkpoint does not make this.
            UnusablePicture, OutputFailed, QueueUnavailable.
        """
        with self._taken_in(request, source) as (request, source), self._changed:
            place = self._ledger.last_place() + 1
            job = Job(self._ledger.new_id(), "queued", request, self._clock(), place, checkpoint=source)
            self._ledger.write(job)
            return job

    def add_training(self, order: TrainingOrder, source: str = "") -> Job:
        """Queue a training. ``source``: its checkpoint's, by default the chosen one's.

        Raises:
            InvalidRequest: its LoRA's name is taken, by a file or by another training that may write it.
            QueueUnavailable.
        """
        checkpoint = self._checkpoint(source)
        with self._changed:
            self._refuse_taken(order)
            number, place = self._ledger.new_id(), self._ledger.last_place() + 1
            source = checkpoint.source if checkpoint else source
            job = Job(number, "queued", order, self._clock(), place, checkpoint=source)
            self._ledger.write(job)
            return job

    def add_batch(self, requests: Sequence[Request], source: str = "") -> list[Job]:
        """Queue several requests that belong together, all or none. Raises as ``add``."""
        with self._all_taken_in(requests, source) as (taken, source), self._changed:
            first, place, now = self._ledger.new_id(), self._ledger.last_place() + 1, self._clock()
            jobs = [
                Job(first + n, "queued", request, now, place + n, checkpoint=source, batch=first)
                for n, request in enumerate(taken)
            ]
            self._ledger.write(*jobs)
            return jobs

    def edit(self, job_id: int, request: Request, source: str = "") -> Job:
        """Put another request in the place of a queued one. Raises as ``add``, and UnknownJob, InvalidCommand."""
        source = source or self._queued(job_id).checkpoint
        with self._taken_in(request, source) as (request, source), self._changed:
            job = self._queued(job_id)
            if job.progress.folder:
                raise InvalidCommand(Message("command.unfinished", job=job_id))
            if job.order:
                raise InvalidCommand(Message("command.training", job=job_id))
            self._ledger.write(replace(job, work=request, checkpoint=source))
            self._tidy()
            return self.job(job_id)

    def duplicate(self, job_id: int) -> Job:
        """Queue the same request once more, for the same checkpoint."""
        job = self.job(job_id)
        return self.add(job.request, job.checkpoint)

    def add_twins(self, request: Request, source: str = "") -> tuple[Job, Job]:
        """Queue ``request`` and its counterpart, with the same seed, to be compared. Raises as ``add``."""
        with self._taken_in(request.with_seed(), source) as (request, source), self._changed:
            number, place, now = self._ledger.new_id(), self._ledger.last_place() + 1, self._clock()
            one = Job(number, "queued", request, now, place, checkpoint=source, twin=number + 1)
            other = replace(one, id=number + 1, work=counterpart(request), place=place + 1, twin=number)
            self._ledger.write(one, other)
            return one, other

    def add_twin(self, job_id: int) -> Job:
        """Queue the counterpart of a finished job, to be compared with it. Raises as ``add``, and InvalidCommand."""
        job = self._finished(job_id)
        with self._taken_in(counterpart(as_made(job)), job.checkpoint) as (request, source), self._changed:
            job, place = self._finished(job_id), self._ledger.last_place() + 1
            twin = Job(self._ledger.new_id(), "queued", request, self._clock(), place, checkpoint=source, twin=job_id)
            self._ledger.write(twin, replace(job, twin=twin.id))
            return twin

    def move(self, job_id: int, before: int | None) -> None:
        """Put a queued job before another queued one, or at the end."""
        with self._changed:
            moved = self._queued(job_id)
            target = self._queued(before) if before is not None else None
            if target == moved:
                return
            waiting = [job for job in self._waiting() if job.id != job_id]
            waiting.insert(waiting.index(target) if target else len(waiting), moved)
            places = sorted(job.place for job in waiting)
            self._ledger.write(*(replace(job, place=place) for job, place in zip(waiting, places, strict=True)))

    def run_next(self, job_id: int) -> None:
        """Put a queued job at the front."""
        with self._changed:
            self._queued(job_id)
            self.move(job_id, self._waiting()[0].id)

    def cancel(self, job_id: int, keep: Keep = "now") -> None:
        """Stop a job; ``keep`` says what of a running one stays. A queued one is cancelled at once."""
        with self._changed:
            job = self.job(job_id)
            if job.state == "queued":
                self._ledger.write(self._ended(job, "cancelled"))
                if keep == "nothing":
                    self._ledger.write(without_results(self.output_dir, self.job(job_id)))
            elif job.state == "running":
                self._ledger.write(replace(job, stop=keep))
            else:
                raise InvalidCommand(Message("command.not_stoppable", job=job_id, state=_called(job)))

    def retry(self, job_id: int) -> Job:
        """Queue a job that failed or was stopped again, from its beginning. What it had made goes to the trash."""
        with self._changed:
            job = self._stopped(job_id)
            with in_trash(self.output_dir, job):
                self._ledger.write(replace(job, progress=JobProgress(), **self._again()))
            return self.job(job_id)

    def go_on(self, job_id: int) -> Job:
        """Queue a job that failed or was stopped again, from its last finished section."""
        with self._changed:
            job = self._stopped(job_id)
            if not job.can_go_on:
                raise InvalidCommand(Message("command.nothing_to_go_on", job=job_id))
            self._ledger.write(replace(job, progress=job.progress.to_go_on_with(), **self._again()))
            return self.job(job_id)

    def retry_failed(self) -> int:
        """Queue all failed jobs again, each from as far as it had come; returns how many."""
        with self._changed:
            failed = [job for job in self.jobs() if job.state == "failed"][::-1]
            for job in failed:
                (self.go_on if job.can_go_on else self.retry)(job.id)
            return len(failed)

    def remove(self, job_id: int) -> None:
        """Forget a job. A finished video stays where it is; unfinished work is deleted."""
        with self._changed:
            job = self._not_running(job_id)
            self._ledger.forget(job_id)
            self._tidy()
            if isinstance(job, Job) and job.progress.folder:
                without_results(self.output_dir, job)

    def trash(self, job_id: int) -> None:
        """Forget a job and move its video and picture to the folder ``trash``. Raises OutputFailed."""
        with self._changed:
            job = self._not_running(job_id)
            with self._trash.taking(job):
                self._ledger.forget(job_id)
            self._tidy()

    def restore(self, job_id: int) -> Job | UnreadableJob:
        """Bring back a job from the trash, with what there still is of its files but without its log.

        Raises InvalidCommand, OutputFailed.
        """
        with self._changed, self._trash.giving_back(job_id) as job:
            if isinstance(job, Job):
                self._ledger.write(job)
            else:
                self._ledger.put_back(job)
            return job

    def pause(self) -> None:
        """Begin no further job; the running one goes on."""
        self._set_paused(True)

    def unpause(self) -> None:
        """Begin jobs again."""
        self._set_paused(False)

    def tell_address(self, address: str) -> None:
        """Leave word for a second program of where the page of this queue is."""
        self._ledger.tell_address(address)

    def close(self) -> None:
        """Write everything and let go of the folder."""
        with self._changed:
            self._ledger.close()

    # For the worker.

    def employ(self, executor: str) -> None:
        """Tell of an executor that will claim jobs; the name is empty where it is the only one."""
        with self._changed:
            self._employed |= {executor}

    def claim(self, executor: str = "", keeps_models: bool = True) -> Job | None:
        """Take the next queued job for ``executor`` and mark it running; None when there is none to begin.

        ``keeps_models``: whether those that it has loaded last are still there.
        """
        with self._changed:
            waiting = [] if self.paused or executor in self._halted else self._waiting()
            if not waiting:
                return None
            job, now = waiting[0], self._clock()
            left = self._estimates.seconds_of(job, self._loaded.get(executor, "") if keeps_models else "")
            loading = replace(job.progress, loading=True, told_at=now, seconds_left=left)
            job = replace(job, state="running", progress=loading, stop=None, started_at=now, executor=executor)
            self._ledger.keep(job)
            return job

    def halt(self, executor: str, why: Message) -> None:
        """Let ``executor`` begin no job until the queue is unpaused or opened anew; ``why`` is among the notices."""
        with self._changed:
            self._halted = {**self._halted, executor: why}
            self._ledger.show()

    def wait(self, seconds: float) -> None:
        """Until something changes, at most ``seconds``."""
        with self._changed:
            self._changed.wait(seconds)

    def wake(self) -> None:
        """Let ``wait`` return."""
        with self._changed:
            self._changed.notify_all()

    def record(self, job_id: int, event: Event) -> Job:
        """Take in an event of a running job."""
        with self._changed:
            job = self.job(job_id).after(event, self._clock())
            if job.progress.checkpoint:
                self._loaded[job.executor] = job.progress.checkpoint
            if isinstance(event, Step | Preview | Decoding | Encoded | Learning | Sampling):
                self._ledger.show(job, passing=True)
            else:
                self._ledger.keep(job, event)
            return job

    def end(self, job_id: int, event: Last, state: State) -> Job:
        """Take in the last event of a running job; where nothing was to be kept, nothing is."""
        with self._changed:
            job = self.job(job_id).after(event, self._clock())
            if job.stop == "nothing" and state in ("cancelled", "done"):
                job, state = self._discarded(job), "cancelled"
            if job.order:
                self._loaded.pop(job.executor, None)
            self._ledger.keep(self._ended(job, state), event)
            self._ledger.back_up()
            return self.job(job_id)

    # What the above is made of. All is called with the lock held.

    def _recover(self) -> None:
        """After a start: what was running was broken off, and half-written files are nobody's."""
        for folder in (self.output_dir, *linked_days(self.output_dir)):
            remove_partials(folder)
        with self._changed:
            for job in [job for job in self.jobs() if job.state == "running"]:
                found = with_finished_video(job)
                self._ledger.keep(self._ended(found or job, "done" if found else "interrupted"))
            self._tidy()

    @contextmanager
    def _taken_in(self, request: Request, source: str) -> Iterator[tuple[Request, str]]:
        """The request with its pictures on the shelf, and its checkpoint's source. Without the lock: it takes time."""
        with self._all_taken_in([request], source) as ((taken,), source):
            yield taken, source

    @contextmanager
    def _all_taken_in(self, requests: Sequence[Request], source: str) -> Iterator[tuple[list[Request], str]]:
        """The same for several of one checkpoint; a picture that they share is taken once."""
        if checkpoint := self._checkpoint(source):
            for request in requests:
                check_offered(request, checkpoint)
            source = checkpoint.source
        paths = dict.fromkeys(path for request in requests for path in request.picture_paths)
        with ExitStack() as taken:
            places = {path: str(taken.enter_context(self._shelf.taking(Path(path)))) for path in paths}
            yield [request.with_picture_paths(places.__getitem__) for request in requests], source

    def _refuse_taken(self, order: TrainingOrder) -> None:
        """Raises InvalidRequest where this training could write over what another has made, or go on from it."""
        out = Path(order.out)
        unfinished = {job.order.out for job in self.jobs() if job.order and job.state != "done"}
        if order.out in unfinished or out.exists() or order.state.exists():
            reason = Message("training.name_taken", name=out.name)
            raise InvalidRequest(reason, [Problem("out", "said", order.out, {"reason": reason})])

    def _waiting(self) -> list[Job]:
        return [job for job in self.jobs() if job.state == "queued"]

    def _queued(self, job_id: int) -> Job:
        job = self.job(job_id)
        if job.state != "queued":
            raise InvalidCommand(Message("command.only_queued", job=job_id, state=_called(job)))
        return job

    def _finished(self, job_id: int) -> Job:
        job = self.job(job_id)
        if job.state != "done":
            raise InvalidCommand(Message("command.only_done", job=job_id, state=_called(job)))
        return job

    def _stopped(self, job_id: int) -> Job:
        job = self.job(job_id)
        if job.state not in ("failed", "cancelled", "interrupted"):
            raise InvalidCommand(Message("command.only_stopped", job=job_id, state=_called(job)))
        return job

    def _not_running(self, job_id: int) -> Job | UnreadableJob:
        if unreadable := self._ledger.unreadable.get(job_id):
            return unreadable
        job = self.job(job_id)
        if job.state == "running":
            raise InvalidCommand(Message("command.running", job=job_id))
        return job

    def _again(self) -> dict[str, Any]:
        return {"state": "queued", "stop": None, "ended_at": None, "place": self._ledger.last_place() + 1}

    def _ended(self, job: Job, state: State) -> Job:
        place = self._ledger.last_place() + 1
        return replace(job, state=state, stop=None, ended_at=self._clock(), place=place, executor="")

    def _discarded(self, job: Job) -> Job:
        try:
            return without_results(self.output_dir, job)
        except OutputFailed as error:
            log.warning("job %d is not discarded: %s", job.id, error)
            return job

    def _tidy(self) -> None:
        """Pictures that no job needs go; but not where jobs may be hidden in what could not be read."""
        jobs = (*self._ledger.jobs.values(), *self._trash.jobs)
        readable = [job for job in jobs if isinstance(job, Job)]
        if self._ledger.is_whole and len(readable) == len(jobs):
            self._shelf.keep_only(path for job in readable if not job.order for path in job.request.picture_paths)

    def _set_paused(self, paused: bool) -> None:
        with self._changed:
            self._ledger.set_paused(paused)
            self._halted = self._halted if paused else {}


def _called(job: Job) -> Message:
    """The state of a job, as the page calls it."""
    return Message(f"job.state_{job.state}")
