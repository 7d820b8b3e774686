"""An empty queue in a folder of the test's own, and a picture for its jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_helper.jobs.queue import JobQueue
from tests.jobs_support import make_picture


@pytest.fixture
def queue(tmp_path: Path) -> JobQueue:
    return JobQueue(tmp_path / "outputs")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return make_picture(tmp_path)
