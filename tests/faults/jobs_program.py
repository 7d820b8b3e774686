"""A program that works through a queue on the real road with tiny weights: the page's process, without the page.

    python -m tests.faults.jobs_program <output folder> <picture>

It is made to be killed, by FRAMEPACK_FAULTS.
"""

from __future__ import annotations

import sys
from pathlib import Path

from diffusers_helper.jobs.queue import JobQueue

from ..jobs_support import ended, make_request, pack_executor, working


def main(output_dir: Path, picture: Path) -> None:
    """Queue one job and work until it has ended."""
    queue = JobQueue(output_dir)
    job = queue.add(make_request(picture))
    with working(queue, pack_executor(output_dir)):
        ended(queue, job.id)
    queue.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
