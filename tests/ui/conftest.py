"""What the tests of the page share."""

from __future__ import annotations

from pathlib import Path

import pytest

from .stage import Stage, make_stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return make_stage(tmp_path)
