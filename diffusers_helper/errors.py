"""The errors a user can meet. Each message says what was wrong, with what value, and what to do; those that the page
shows are messages, which it says in its language.

``exit_code`` is what the command line returns: 2 when something that was given cannot be used (an argument, a
picture, a checkpoint, a folder to resume), 1 when the run itself failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .words import Message, plain

ProblemKind = Literal[
    "missing", "number", "whole_number", "too_long", "choice", "ratios", "said", "other",
    "unreadable", "empty", "format", "large_file", "large", "damaged",
]  # fmt: skip
"""What can be wrong; the last six with a picture."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one field of a request, as data: whoever shows it finds the words.

    Attributes:
        value: what was given instead.
        limits: what is allowed: ``low`` and ``high`` of a number, ``most`` characters, ``choices``; of a picture also
            its ``name``, what was ``found``, and the ``reason`` as the system or a decoder says it; of a list the
            ``place`` of what is wrong and what was ``given`` there; of what is said elsewhere the ``reason`` it has.
    """

    field: str
    kind: ProblemKind
    value: Any = None
    limits: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class FramePackError(Exception):
    """The base of every error that is meant for a user's eyes. As a str it is English.

    Attributes:
        said: what it says, for any language; English where only a terminal shows it.
    """

    exit_code = 1

    def __init__(self, message: Message | str) -> None:
        super().__init__(str(message))
        self.said = message if isinstance(message, Message) else plain(message)


def told_by(error: Exception) -> Message:
    """What an error says, to stand in another message; what is none of ours says it in its own words."""
    return error.said if isinstance(error, FramePackError) else plain(str(error))


def unforeseen(error: Exception) -> Message:
    """What is told of an error that nobody has foreseen: its name and its own words."""
    return plain(f"{type(error).__name__}: {error}")


class UnusableInput(FramePackError):
    """Something the user gave cannot be used."""

    exit_code = 2


class UnusableArgument(UnusableInput, ValueError):
    """A function for other programs was called with a value that it cannot use; names the argument."""


class InvalidRequest(UnusableInput):
    """A field of the request is missing, of the wrong type or out of range.

    ``problems`` says the same as the message, field by field, where it was a field.
    """

    def __init__(self, message: Message | str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class InvalidSetting(UnusableInput):
    """A flag, an environment variable or a line of the settings file has a value that is not allowed."""


class UnusablePicture(UnusableInput):
    """The picture is missing, damaged, too large or in a format that is not accepted; ``problems`` says the same."""

    def __init__(self, message: Message | str, kind: ProblemKind, **limits: Any) -> None:
        super().__init__(message)
        self.problems = (Problem("picture", kind, limits=limits),)


class UnusableCheckpoint(UnusableInput):
    """The checkpoint is unknown, incomplete or damaged."""


class UnusableLora(UnusableInput):
    """The file is no LoRA, is damaged, or is of another model; names the file, and the key where it is about one."""


class UnusableResumeFolder(UnusableInput):
    """The folder to resume from is not one of ours, is damaged, or belongs to another checkpoint."""


class UnreadableEvent(FramePackError):
    """What another process said is no event; names the event and the field."""


class NoSettings(FramePackError):
    """Why there are no settings in a text; for a sentence of whoever has read it."""


class UnknownJob(UnusableInput):
    """There is no job of that number."""


class InvalidCommand(UnusableInput):
    """The command does not fit the state the job is in."""


class AlreadyRunning(UnusableInput):
    """Another instance works on the same output folder."""


class QueueUnavailable(FramePackError):
    """The file of the queue cannot be read or written."""


class DamagedQueue(QueueUnavailable):
    """The file of the queue is not sound."""


class ForeignQueue(FramePackError):
    """The file of the queue belongs to another program, or to a newer version of this one."""


class OutputFailed(FramePackError):
    """A result could not be written: no space, no permission, or the folder is gone."""


class OutOfMemory(FramePackError):
    """The device has too little memory for what was to be done."""


class ExecutorLost(FramePackError):
    """What carried out a job was ended from outside; what the job has finished is kept."""


class BrokenNumbers(FramePackError):
    """The model produced NaN or infinity; nothing of that section is kept."""


class CancelRequested(Exception):
    """Thrown into a running generation to end it; the finished sections stay as a playable video."""


GPU_IS_LOST = (
    "illegal memory access",
    "illegal address",
    "illegal instruction",
    "invalid program counter",
    "global/shared address space",
    "misaligned address",
    "unspecified launch failure",
    "device-side assert",
    "hardware stack error",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "launch timed out",
    "unknown error",
    "context is destroyed",
    "no CUDA-capable device",
    "busy or unavailable",
)
"""What CUDA says when it then fails at every call of the process. Its other errors are over with their call."""


def says_gpu_is_lost(error: BaseException) -> bool:
    """Whether CUDA has failed for good."""
    words = str(error)
    return isinstance(error, RuntimeError) and "CUDA" in words and any(each in words for each in GPU_IS_LOST)
