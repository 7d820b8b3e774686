"""stdout and stderr as people have them: of any encoding, closed, full, or with nobody reading at the other end."""

from __future__ import annotations

import argparse
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import OutputFailed


def prepare_streams() -> None:
    """From now on no character is one that a stream cannot take, and what a closed one should take goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_streams() -> None:
    """Write out what is pending; a stream that takes nothing any more leads nowhere from now on."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def last_words(error: OSError) -> int:
    """Say what the system refused, as far as stderr still takes it; returns the exit code.

    An error of a stream names no file, so the sentence cannot.
    """
    flush_streams()
    with suppress(OSError):
        sys.stderr.write(f"error: stdout, stderr or a file cannot be written or read: {error.strerror or error}\n")
    flush_streams()
    return OutputFailed.exit_code


class Parser(argparse.ArgumentParser):
    """One that ends with an error where help or the version cannot be written; argparse passes over that.

    Flags may be written with underscores too, as other programs do.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse."""
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([_with_hyphens(each) for each in given], namespace)

    def _print_message(self, message: str, file: Any = None) -> None:
        stream = file or sys.stderr
        try:
            stream.write(message)
            stream.flush()
        except BrokenPipeError:
            return
        except OSError as error:
            sys.exit(last_words(error))


def _with_hyphens(argument: str) -> str:
    """``--a_flag=some_value`` as ``--a-flag=some_value``; what is no flag stays."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return f"{flag.replace('_', '-')}{equals}{value}"
