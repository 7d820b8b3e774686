"""A program that works through a queue on the real road with tiny weights: the page's process, without the page.

It is made to be killed. Imported by a process that makes such programs, so it imports what they need.
"""

from __future__ import annotations

import os
from pathlib import Path

from diffusers_helper import faults
from diffusers_helper.jobs.queue import JobQueue

from ..jobs_support import ended, make_request, pack_executor, working
from ..parity import engine

__all__ = ["engine"]


def main(output_dir: Path, picture: Path, fault: str) -> None:
    """Queue one job and work until it has ended, or until ``fault`` (as in FRAMEPACK_FAULTS) ends this process."""
    os.environ[faults.VARIABLE] = fault
    queue = JobQueue(output_dir)
    job = queue.add(make_request(picture))
    with working(queue, pack_executor(output_dir)):
        ended(queue, job.id)
    queue.close()
