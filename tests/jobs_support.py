"""What tests of jobs share: an executor that plays a job without a model, and ways to wait.

``ScriptedExecutor`` tells the events of a real run, with the numbers of the request's own plan, and leaves the files
of a real run: a work folder, a playable video so far, in the end a finished one. It needs no torch, and milliseconds.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from diffusers_helper.caches.magcache import mean_of
from diffusers_helper.errors import FramePackError
from diffusers_helper.events import (
    Calibrated,
    Cancelled,
    Decoding,
    Event,
    Failed,
    Finished,
    Learning,
    Learnt,
    Notice,
    Plan,
    Preview,
    Saved,
    SectionDone,
    Started,
    Step,
)
from diffusers_helper.jobs.executor import Execution, Executor, LocalExecutor
from diffusers_helper.jobs.job import Job, State
from diffusers_helper.jobs.job_progress import JobProgress
from diffusers_helper.jobs.migrate import progress_of
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.work import Work
from diffusers_helper.jobs.worker import Worker
from diffusers_helper.media.files import day_folder, job_stem, make_folder, written_whole
from diffusers_helper.media.formats import write_output
from diffusers_helper.media.metadata import as_comment, write_png
from diffusers_helper.media.segments import Footage
from diffusers_helper.media.video import join_segments, write_segment
from diffusers_helper.request import Request
from diffusers_helper.request.output import Video
from diffusers_helper.training.order import TrainingOrder

SIZE = 64
PATIENCE_SECONDS = 60.0
"""Of a machine that is busy with other things; whoever waits for a condition goes on as soon as it is so."""


def make_picture(folder: Path, colour: str = "teal") -> Path:
    """A small picture to start from."""
    path = folder / f"{colour}.png"
    Image.new("RGB", (SIZE, SIZE), colour).save(path)
    return path


def make_request(picture: Path, **fields: Any) -> Request:
    """A request of two sections with two steps each, unless ``fields`` say otherwise."""
    return Request.parse({"picture": str(picture), "seconds": 2.4, "steps": 2, "seed": 5, **fields})


def make_order(folder: Path, **fields: Any) -> TrainingOrder:
    """A training of four steps, saved after two, unless ``fields`` say otherwise."""
    out = folder / "models" / "lora" / "mine.safetensors"
    known = {"data": str(folder), "out": str(out), "steps": 4, "save_every_n_steps": 2}
    return TrainingOrder.parse({**known, **fields})


def progress_with(state: State, **known: Any) -> JobProgress:
    """The progress of a job in ``state`` of which just so much is known, in the words of the first form."""
    return JobProgress.from_dict(progress_of(known, state))


def wait_until(true: Callable[[], Any], what: str = "", seconds: float = PATIENCE_SECONDS) -> Any:
    """Look every few milliseconds until ``true()`` is so, and return it; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.005)
    raise AssertionError(f"waited {seconds} s in vain{what and f' for {what}'}")


def ended(queue: JobQueue, job_id: int, seconds: float = PATIENCE_SECONDS) -> Job:
    """The job, once it is neither queued nor running."""
    wait_until(lambda: queue.job(job_id).state not in ("queued", "running"), f"the end of job {job_id}", seconds)
    return queue.job(job_id)


@contextmanager
def working(queue: JobQueue, executor: Executor) -> Iterator[Worker]:
    """A worker that runs the jobs of ``queue`` meanwhile."""
    worker = Worker(queue, executor)
    worker.start()
    try:
        yield worker
    finally:
        assert worker.stop(PATIENCE_SECONDS), "the worker did not stop"


def pack_executor(output_dir: Path, run: str = "run_i2v") -> LocalExecutor:
    """The real road in this process, on recorded conditioning and tiny weights."""
    from .parity.engine import PackEngine

    return local_executor(PackEngine(run), output_dir)


def local_executor(engine: Any, output_dir: Path) -> LocalExecutor:
    """The real road in this process on this one engine, whatever checkpoint a job is for."""
    return LocalExecutor(lambda source: engine.checkpoint, lambda checkpoint: engine, output_dir)


class Hold:
    """Lets a scripted job tell an event and holds it there: ``reached`` is set, ``go`` lets it run on."""

    def __init__(self, at: Callable[[Event], bool]) -> None:
        self._at = at
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        if self._at(event) and not self.go.is_set():
            self.reached.set()
            assert self.go.wait(PATIENCE_SECONDS), "held too long"


def at_step(section: int, step: int) -> Callable[[Event], bool]:
    """True of one step's event; both count from 1."""
    return lambda event: isinstance(event, Step) and (event.section, event.step) == (section, step)


@dataclass
class ScriptedExecutor:
    """Plays jobs. ``after`` is called with each event that was told: it may wait, count, or raise.

    ``submitted`` keeps what was asked for, with the folder to go on with; ``checkpoints`` for which checkpoint.
    """

    keeps_models = True
    output_dir: Path
    after: Callable[[Event], None] = lambda event: None
    submitted: list[tuple[Work, Path | None]] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)

    def submit(self, work: Work, folder: Path | None, checkpoint: str = "") -> Execution:
        self.submitted.append((work, folder))
        self.checkpoints.append(checkpoint)
        if isinstance(work, TrainingOrder):
            return ScriptedTraining(work, self.after)
        request = work
        return ScriptedExecution(request.with_seed(), folder or self._new_folder(request), self.after)

    def close(self) -> None:
        """Nothing is loaded."""

    def _new_folder(self, request: Request) -> Path:
        now = datetime.now()
        folder = day_folder(self.output_dir, now) / f"{job_stem(now, request.seed)}_{secrets.token_hex(4)}"
        make_folder(folder)
        (folder / "job.json").write_text("{}", encoding="utf-8")
        return folder


class ScriptedTraining:
    """One training being played: its state file says how far it was, and every loss is 1 over its step."""

    def __init__(self, order: TrainingOrder, after: Callable[[Event], None]) -> None:
        self._order, self._after = order, after
        self._cancelled = threading.Event()
        self._step = int(Path(order.resume).read_text()) if order.resume else 0

    def cancel(self) -> None:
        self._cancelled.set()

    def events(self) -> Iterator[Event]:
        """The story of a real one, ended by one last event."""
        try:
            for event in self._story():
                yield event
                self._after(event)
                if self._cancelled.is_set():
                    break
        except FramePackError as error:
            yield Failed(error=str(error), exit_code=error.exit_code, folder=None)
            return
        self._write(Path(self._order.out))
        yield Learnt(step=self._step, steps=self._order.steps, path=self._order.out, seconds_total=2.0)

    def _story(self) -> Iterator[Event]:
        order = self._order
        yield Notice(message="2 examples")
        while self._step < order.steps:
            self._step += 1
            loss, left = 1 / self._step, float(order.steps - self._step)
            told = {"loss": loss, "smooth": loss, "rate": order.learning_rate, "norm": 1.0, "seconds_left": left}
            yield Learning(step=self._step, steps=order.steps, **told)
            every = order.save_every_n_steps
            if every and self._step % every == 0 and self._step < order.steps:
                out = Path(order.out)
                yield self._write(out.with_name(f"{out.stem}-{self._step:06}.safetensors"))
        yield self._write(Path(order.out))

    def _write(self, path: Path) -> Saved:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensor = np.zeros((1, 8), np.float32)
        save_file({f"lora_unet_single_blocks_0_linear1.lora_{part}.weight": tensor for part in ("down", "up")}, path)
        self._order.state.write_text(str(self._step))
        return Saved(step=self._step, path=str(path), state=str(self._order.state))


class ScriptedExecution:
    """One job being played."""

    def __init__(self, request: Request, folder: Path, after: Callable[[Event], None]) -> None:
        self._request, self._folder, self._after = request, folder, after
        self._plan = request.plan()
        self._cancelled = threading.Event()
        self._done = len(list(folder.glob("section_*.done")))

    def cancel(self) -> None:
        self._cancelled.set()

    def events(self) -> Iterator[Event]:
        """The whole story, ended as a real one is: by one last event, whatever happens."""
        try:
            for event in self._story():
                yield event
                self._after(event)
                if self._cancelled.is_set() and not isinstance(event, Finished):
                    yield Cancelled(**self._totals(), folder=str(self._folder))
                    return
        except FramePackError as error:
            yield Failed(**self._totals(), error=str(error), exit_code=error.exit_code, folder=str(self._folder))

    def _story(self) -> Iterator[Event]:
        yield Started(folder=str(self._folder), seed=self._request.seed, sections_done=self._done)
        yield self._plan_event()
        for section in self._plan.sections[self._done :]:
            yield from self._steps(section.number + 1)
            yield Decoding(section=section.number + 1, sections=len(self._plan.sections), seconds_left=60.0)
            yield self._show_section(section.number, section.frames_after)
        if self._calibrates:
            yield self._calibrated()
        video = self._finish()
        yield Finished(**{**self._totals(), "path": str(video)})

    def _plan_event(self) -> Plan:
        request, plan = self._request, self._plan
        shape = {"fps": request.fps, "width": SIZE, "height": SIZE, "seconds": round(plan.frames / request.fps, 3)}
        counts = {"sections": len(plan.sections), "steps": request.steps, "frames": plan.frames}
        return Plan(checkpoint="scripted", kind=request.kind.name, **counts, **shape)

    def _steps(self, section: int) -> Iterator[Event]:
        for step in range(1, self._request.steps + 1):
            left = float(self._request.steps - step)
            where = {"section": section, "sections": len(self._plan.sections)}
            yield Step(**where, step=step, steps=self._request.steps, computed=self._computes(step), seconds_left=left)
            preview = self._folder / "preview.png"
            write_png(preview, np.full((8, 32, 3), 40 * section + step, np.uint8), {}, durable=False)
            yield Preview(section=section, step=step, path=str(preview))

    @property
    def _calibrates(self) -> bool:
        return bool(getattr(self._request.step_cache, "calibration", False))

    def _computes(self, step: int) -> bool:
        """Every third step is reused, where the request has a step cache."""
        return self._request.step_cache is None or self._calibrates or step % 3 != 0

    def _calibrated(self) -> Calibrated:
        """A list for each section, whose ratios fall a little."""
        steps = range(self._request.steps)
        sections = [[1 - 0.01 * step - 0.002 * one.number for step in steps] for one in self._plan.sections]
        return Calibrated(checkpoint="scripted", sections=sections, mean=list(mean_of(sections)))

    def _show_section(self, number: int, frames: int) -> SectionDone:
        (self._folder / f"section_{number:03}.done").touch()
        self._done = number + 1
        lightest = 200 if all(map(self._computes, range(1, self._request.steps + 1))) else 190
        shades = np.linspace(0, lightest, frames).astype(np.uint8)[:, None, None, None]
        write_segment(self._video, np.broadcast_to(shades, (frames, SIZE, SIZE, 3)), self._request.fps, 30)
        sections = len(self._plan.sections)
        return SectionDone(section=number + 1, sections=sections, frames=frames, path=str(self._video))

    def _finish(self) -> Path:
        output = self._request.output
        result = self._folder.with_suffix(output.suffix)
        metadata = {"version": "0", "checkpoint": "scripted", "request": self._request.recipe.model_dump()}
        if not isinstance(output, Video):
            write_png(result, np.full((SIZE, SIZE, 3), 10 * self._request.seed % 256, np.uint8), metadata)
        elif output.is_joined:
            join_segments([self._video], result, as_comment(metadata), self._request.fps)
        else:
            write_output(result, Footage([self._video]), self._request.fps, output, as_comment(metadata))
        if isinstance(output, Video):
            with written_whole(result.with_suffix(".png")) as part:
                Image.new("RGB", (SIZE, SIZE), "teal").save(part)
        for file in self._folder.iterdir():
            file.unlink()
        self._folder.rmdir()
        return result

    @property
    def _video(self) -> Path:
        return self._folder / "video.mp4"

    def _totals(self) -> dict[str, Any]:
        """What the last event carries."""
        done = self._plan.sections[self._done - 1].frames_after if self._done else 0
        shape = {"fps": self._request.fps, "width": SIZE, "height": SIZE, "seed": self._request.seed}
        computed = sum(map(self._computes, range(1, self._request.steps + 1)))
        steps = {"steps_computed": self._done * computed, "steps_reused": self._done * (self._request.steps - computed)}
        seconds = {"seconds_sampling": 1.0, "seconds_first_step": 0.1, "seconds_decoding": 0.5, "seconds_total": 1.5}
        return {"path": str(self._video) if done else None, "frames": done, **shape, **steps, **seconds}
