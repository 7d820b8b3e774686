"""Carries jobs out in processes of their own: the commands ``generate`` and ``train``, with a device for each executor.

A process that is killed costs its job a break and nothing else; the models are loaded anew for every job.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import ExecutorLost, FramePackError, OutputFailed
from ..events import Events, Last
from ..models.table import Checkpoint
from ..training.order import TrainingOrder
from ..words import Message
from .executor import Execution
from .program import said_by, start_program
from .work import Work

INTERRUPTED = 130
"""What the command line returns when it was ended by a signal that it knows."""
ENDING_SECONDS = 30.0
"""How long a process that has said its last event may take to end by itself."""


def process_executors(
    devices: Sequence[str], find: Callable[[str], Checkpoint], environment: Mapping[str, str]
) -> dict[str, ProcessExecutor]:
    """An executor for each of ``devices``, by what people call it. ``environment``: what all of them are set."""
    names = [device if device == "cpu" else f"gpu {device}" for device in devices]
    many, seen = Counter(names), Counter[str]()
    executors = {}
    for name, device in zip(names, devices, strict=True):
        seen[name] += 1
        called = f"{name} ({seen[name]})" if many[name] > 1 else name
        visible = {"CUDA_VISIBLE_DEVICES": "" if device == "cpu" else _here(device)}
        executors[called] = ProcessExecutor(find, {**environment, **visible})
    return executors


def _here(device: str) -> str:
    """The device by the number that this process knows it by: it may see a few of the machine's alone."""
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return seen[int(device)] if device.isdecimal() and int(device) < len(seen) else device


class ProcessExecutor:
    """One device, and one process at a time on it."""

    keeps_models = False

    def __init__(self, find: Callable[[str], Checkpoint], environment: Mapping[str, str]) -> None:
        """
        Args:
            find: the checkpoint of a source; raises UnusableCheckpoint.
            environment: what is set for its processes: the device, and the settings that this process was given.
        """
        self._find, self._environment = find, environment

    def submit(self, work: Work, folder: Path | None, checkpoint: str) -> Execution:
        def start() -> subprocess.Popen[str]:
            if folder:
                return self._start("generate", f"--resume={folder}")
            command = ("train", "--order=-") if isinstance(work, TrainingOrder) else ("generate", "--request=-")
            return self._start(*command, f"--checkpoint={self._find(checkpoint).source}", stdin=work.to_json())

        return _ProcessExecution(start)

    def close(self) -> None:
        """Nothing outlives a job."""

    def _start(self, command: str, *arguments: str, stdin: str = "") -> subprocess.Popen[str]:
        return start_program(command, "--json", *arguments, environment=self._environment, stdin=stdin)


class _ProcessExecution:
    def __init__(self, start: Callable[[], subprocess.Popen[str]]) -> None:
        self._start = start
        self._changing = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._cancelled = False

    def events(self) -> Events:
        """Whoever closes it ends the process. Raises ExecutorLost when the process was ended by somebody else."""
        process = self._begin()
        patience = 0.0
        try:
            for event in said_by(process):
                patience = ENDING_SECONDS if isinstance(event, Last) else 0.0
                yield event
                if isinstance(event, Last):
                    return
        finally:
            _end(process, patience)
        raise _without_a_word(process.wait())

    def cancel(self) -> None:
        """Once, since a second signal would break off the step under way."""
        with self._changing:
            if self._process and not self._cancelled:
                self._process.terminate()
            self._cancelled = True

    def _begin(self) -> subprocess.Popen[str]:
        try:
            process = self._start()
        except OSError as error:
            raise OutputFailed(Message("process.not_started", reason=error.strerror)) from None
        with self._changing:
            self._process = process
            if self._cancelled:
                process.terminate()
        return process


def _end(process: subprocess.Popen[str], patience_seconds: float) -> None:
    """Wait for it so long, then kill it."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_seconds)
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def _without_a_word(code: int) -> FramePackError:
    """What a process means that ended without a last event."""
    if code < 0:
        names = {each.value: each.name for each in signal.Signals}
        return ExecutorLost(Message("process.ended_by", signal=names.get(-code, f"signal {-code}")))
    if code == INTERRUPTED:
        return ExecutorLost(Message("process.interrupted"))
    return FramePackError(Message("process.without_a_word", code=code))
