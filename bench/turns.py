"""Ways of doing the same in turns, each turn a process of its own: a machine that slows down slows all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from bench.machine import ROOT


def turns(ways: Sequence[str], repeats: int) -> list[str]:
    """Each way ``repeats`` times: A B B A ..."""
    return [way for number in range(repeats) for way in (ways if number % 2 == 0 else ways[::-1])]


def in_own_process(module: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """What ``python -m module`` prints on its last line, as JSON; ``environment`` is added to this one's."""
    command = [sys.executable, "-m", module, *arguments]
    added = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=added, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
