"""The program's own commands as processes beside this one, and what they say."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

from ..events import Event
from ..settings import ROOT

log = logging.getLogger(__name__)


def start_program(*arguments: str, environment: Mapping[str, str], stdin: str = "") -> subprocess.Popen[str]:
    """Start a command, which says its events as lines of JSON; ``stdin`` is its standard input.

    It ends with this process, however that ends: its next event finds nobody at the other end of the pipe. A terminal's
    Ctrl-C does not reach it. ``environment``: what is set for it besides this process's own. Raises OSError.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "diffusers_helper", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=_environment(environment),
        start_new_session=True,
    )
    assert process.stdin  # noqa: S101  # for the types: it is a pipe
    try:
        with process.stdin:
            process.stdin.write(stdin)
    except BrokenPipeError:
        pass  # It has ended already; what it said before tells why.
    return process


def said_by(process: subprocess.Popen[str]) -> Iterator[Event]:
    """Its events, as it says them; what a library prints between them goes to the log. Raises UnreadableEvent."""
    for line in process.stdout or ():
        if line.startswith("{"):
            yield Event.from_json(line)
        elif line.strip():
            log.info("a process beside this one printed: %s", line.rstrip())


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **changes}
