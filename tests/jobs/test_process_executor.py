"""Jobs in processes of their own: two at once, killed, stopped, and with nobody left to listen."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from diffusers_helper.engine import Engine
from diffusers_helper.errors import ExecutorLost, FramePackError, OutputFailed, UnreadableEvent, UnusableCheckpoint
from diffusers_helper.events import Cancelled, Event, Finished, Notice, SectionDone
from diffusers_helper.generate import generate
from diffusers_helper.jobs import process_executor
from diffusers_helper.jobs.executor import Execution
from diffusers_helper.jobs.job import Job, Keep
from diffusers_helper.jobs.process_executor import ProcessExecutor, _ProcessExecution, process_executors
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.worker import Workers
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from diffusers_helper.request import Request
from diffusers_helper.settings import resolve

from ..jobs_support import PATIENCE_SECONDS, ended, make_request, wait_until, working

START_SECONDS = 300.0
KILLED, WHOLE = 1, 2
MARK = "TEST_EXECUTOR"
"""By this variable a test finds the process of an executor."""


@dataclass(frozen=True)
class Alone:
    """What a request becomes when nothing runs beside it: its video, and the latents of its first section."""

    video: bytes
    latents: bytes


def alone(request: Request, checkpoint: Checkpoint, folder: Path) -> Alone:
    settings = resolve({"models_dir": str(folder), "output_dir": str(folder)}, {}, folder / "none.json")
    engine, latents = Engine.load(checkpoint, settings), b""
    for event in generate(request, engine, folder):
        if isinstance(event, SectionDone) and event.section == 1:
            latents = (Path(event.path).parent / "section_000.safetensors").read_bytes()
    engine.close()
    assert isinstance(event, Finished)
    return Alone(Path(event.path or "").read_bytes(), latents)


@dataclass(frozen=True)
class Story:
    """What became of two jobs on two executors, the first of which was killed and went on.

    Attributes:
        began: the executors of the first two jobs, while both ran.
        killed: the first job after its process was killed; ``beside`` is the second one's state by then.
        kept: the latents of the killed job's first section.
    """

    queue: JobQueue
    alone: Alone
    began: list[str]
    killed: Job
    could_go_on: bool
    beside: str
    kept: bytes


def process_of(executor: str) -> psutil.Process:
    """The process that an executor has under way."""
    (found,) = [child for child in psutil.Process().children() if child.environ().get(MARK) == executor]
    return found


@pytest.fixture(scope="module")
def story(quick_checkpoint: Path, photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    home = tmp_path_factory.mktemp("story")
    checkpoint = find_checkpoint(str(quick_checkpoint), home)
    request = make_request(photograph, prompt="the camera pans left", kind="f1", seconds=2.4, steps=4)
    queue = JobQueue(home / "outputs", lambda source: checkpoint)
    for _ in (KILLED, WHOLE):
        queue.add(request)
    places = {"FRAMEPACK_OUTPUT_DIR": str(home / "outputs"), "HF_HOME": str(home)}
    executors = {
        name: ProcessExecutor(lambda source: checkpoint, {**places, "CUDA_VISIBLE_DEVICES": "", MARK: name})
        for name in ("one", "two")
    }
    workers = Workers(queue, executors)
    workers.start()
    wait_until(lambda: queue.job(KILLED).progress.sections_done, "a section", START_SECONDS)
    began = [queue.job(job).executor for job in (KILLED, WHOLE)]
    process_of(queue.job(KILLED).executor).kill()
    killed = ended(queue, KILLED)
    kept = Path(killed.progress.folder or "", "section_000.safetensors").read_bytes()
    could_go_on, beside = killed.can_go_on, queue.job(WHOLE).state
    queue.go_on(KILLED)
    for job in (KILLED, WHOLE):
        ended(queue, job, START_SECONDS)
    assert workers.stop(PATIENCE_SECONDS)
    assert [child for child in psutil.Process().children() if MARK in child.environ()] == []
    by_itself = alone(queue.job(WHOLE).request, checkpoint, home / "alone")
    return Story(queue, by_itself, began, killed, could_go_on, beside, kept)


def test_two_run_at_once_and_each_says_where(story: Story) -> None:
    assert sorted(story.began) == ["one", "two"]
    assert [job.executor for job in story.queue.jobs()] == ["", ""]


def test_a_killed_one_is_interrupted_and_the_other_goes_on_to_the_same_bits(story: Story) -> None:
    assert (story.killed.state, story.killed.progress.error) == ("interrupted", "its process was ended by SIGKILL")
    assert (story.could_go_on, story.beside) == (True, "running")
    assert story.kept == story.alone.latents
    assert story.queue.job(WHOLE).state == "done"
    assert story.queue.result(WHOLE).read_bytes() == story.alone.video


def test_it_goes_on_later_to_the_same_bits(story: Story) -> None:
    job = story.queue.job(KILLED)
    assert (job.state, job.progress.sections_done, job.progress.error) == ("done", 2, None)
    assert story.queue.result(KILLED).read_bytes() == story.alone.video
    starts = [event["sections_done"] for event in story.queue.events(KILLED) if event["event"] == "started"]
    assert starts == [0, 1]


# Without models: programs of a few lines in the place of the command.

SAYS = "import sys, time; say = lambda line: print(line, flush=True); "


@pytest.fixture
def started() -> list[subprocess.Popen[str]]:
    return []


def execution(started: list[subprocess.Popen[str]], program: str) -> _ProcessExecution:
    """An execution whose process is this program."""

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SAYS + program]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    return _ProcessExecution(start)


def line(event: Event) -> str:
    """A statement that says it."""
    return f"say({event.to_json()!r}); "


NOTICE, CANCELLED = Notice(message="a"), Cancelled(folder="f")
WAITS = "time.sleep(60)"
ONE_SIGNAL = (
    "import signal; got = []; signal.signal(signal.SIGTERM, lambda *_: got.append(1)); "
    f"{line(NOTICE)} [time.sleep(0.01) for _ in range(2000) if not got]; time.sleep(0.3); "
    f"say({CANCELLED.to_json()!r} if len(got) == 1 else len(got))"
)


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", ExecutorLost, "its process was ended by SIGKILL"),
        ("import os; os.kill(os.getpid(), 15)", ExecutorLost, "its process was ended by SIGTERM"),
        ("sys.exit(130)", ExecutorLost, "its process was interrupted"),
        ("sys.exit(3)", FramePackError, "its process ended with exit code 3"),
        ("sys.exit(0)", FramePackError, "its process ended with exit code 0"),
        ("say('{no event')", UnreadableEvent, "an event is not JSON"),
    ],
)
def test_what_a_process_means_that_ends_without_a_last_event(
    started: list[subprocess.Popen[str]], end: str, error: type[FramePackError], words: str
) -> None:
    told = []
    with pytest.raises(FramePackError, match=words) as raised:
        told.extend(execution(started, line(NOTICE) + end).events())
    assert type(raised.value) is error
    assert started[0].returncode is not None


def test_a_stop_is_one_signal_however_often_it_is_asked_for(started: list[subprocess.Popen[str]]) -> None:
    """A second one would break off the step under way."""
    run = execution(started, ONE_SIGNAL)
    told = []
    for event in run.events():
        told.append(event)
        for _ in range(3):
            run.cancel()
    assert told == [NOTICE, CANCELLED]


SECTIONS = """
import json, signal
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
place = {"sections": 2, "seconds_left": None, "fraction": None}
say(json.dumps({"event": "started", "folder": FOLDER, "seed": 1, "sections_done": 0}))
for section in (1, 2):
    for step in range(1, 26):
        time.sleep(0.02)
        say(json.dumps({"event": "step", "section": section, "step": step, "steps": 25, "computed": True, **place}))
        if got:
            say(json.dumps({"event": "cancelled", "folder": FOLDER}))
            sys.exit(130)
    say(json.dumps({"event": "section_done", "section": section, "frames": 37 * section, "path": VIDEO, **place}))
"""
"""Two sections of half a second each; heeds a signal at its next step."""


@pytest.mark.parametrize(("keep", "left"), [("now", (0, True)), ("section", (1, True)), ("nothing", (0, False))])
def test_a_stop_keeps_what_it_says(
    started: list[subprocess.Popen[str]], tmp_path: Path, photograph: Path, keep: Keep, left: tuple[int, bool]
) -> None:
    queue = JobQueue(tmp_path)
    folder = tmp_path / "day" / "work"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text("{}")
    program = SECTIONS.replace("FOLDER", repr(str(folder))).replace("VIDEO", repr(str(folder / "video.mp4")))

    class Playing(ProcessExecutor):
        def submit(self, request: Request, folder: Path | None, checkpoint: str) -> Execution:
            return execution(started, "\n" + program)

    job = queue.add(make_request(photograph)).id
    with working(queue, Playing(missing, {})):
        wait_until(lambda: queue.job(job).progress.step, "a step")
        queue.cancel(job, keep)
        stopped = ended(queue, job)
    assert stopped.state == "cancelled"
    assert (stopped.progress.sections_done, stopped.can_go_on) == left
    assert started[0].returncode == 130
    queue.close()


def test_whoever_closes_the_events_ends_the_process(started: list[subprocess.Popen[str]]) -> None:
    events = execution(started, line(NOTICE) + WAITS).events()
    assert next(events) == NOTICE
    events.close()
    assert started[0].returncode == -signal.SIGKILL


def test_one_that_lingers_after_its_last_event_is_ended(
    started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_executor, "ENDING_SECONDS", 0.1)
    assert list(execution(started, line(CANCELLED) + WAITS).events()) == [CANCELLED]
    assert started[0].returncode == -signal.SIGKILL


def test_one_that_cannot_be_started_fails_its_job_in_words() -> None:
    def start() -> subprocess.Popen[str]:
        raise OSError(12, "Cannot allocate memory")

    with pytest.raises(OutputFailed, match="no process could be started: Cannot allocate memory"):
        next(_ProcessExecution(start).events())


def missing(source: str) -> Checkpoint:
    raise UnusableCheckpoint(f"there is no {source}")


def test_a_checkpoint_that_is_not_there_is_told_before_a_process_begins(photograph: Path) -> None:
    events = ProcessExecutor(missing, {}).submit(make_request(photograph), None, "gone").events()
    with pytest.raises(UnusableCheckpoint, match="there is no gone"):
        next(events)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (("cpu",), {"cpu": ""}),
        (("0", "1"), {"gpu 0": "0", "gpu 1": "1"}),
        (("cpu", "3", "cpu"), {"cpu (1)": "", "gpu 3": "3", "cpu (2)": ""}),
    ],
)
def test_each_device_has_its_executor(
    devices: tuple[str, ...], expected: dict[str, str], photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def start(*arguments: str, environment: dict[str, str], stdin: str) -> subprocess.Popen[str]:
        seen.append(environment["CUDA_VISIBLE_DEVICES"])
        assert environment["FRAMEPACK_QUANTISE"] == "int8"
        raise OSError(0, "not to be started")

    monkeypatch.setattr(process_executor, "start_program", start)
    found: Callable[[str], Checkpoint] = lambda source: Checkpoint("a", "a", ("f1",), {}, ((64, 64),))  # noqa: E731
    executors = process_executors(devices, found, {"FRAMEPACK_QUANTISE": "int8"})
    for executor in executors.values():
        with pytest.raises(OutputFailed):
            next(executor.submit(make_request(photograph), None, "").events())
    assert dict(zip(executors, seen, strict=True)) == expected


def test_devices_are_counted_among_those_that_this_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc")
    made = process_executors(("0", "1", "5"), missing, {})
    assert [each._environment["CUDA_VISIBLE_DEVICES"] for each in made.values()] == ["2", "GPU-abc", "5"]


def test_what_a_library_prints_between_events_is_no_event(started: list[subprocess.Popen[str]]) -> None:
    run = execution(started, line(NOTICE) + "say('hello'); say(''); " + line(CANCELLED))
    assert list(run.events()) == [NOTICE, CANCELLED]


def test_a_stop_from_another_thread_reaches_it(started: list[subprocess.Popen[str]]) -> None:
    run = execution(started, ONE_SIGNAL)
    events = run.events()
    assert next(events) == NOTICE
    threading.Thread(target=run.cancel).start()
    assert list(events) == [CANCELLED]
