"""The checkpoint that moves in tests of memory, its engines, which are closed in the end, and its plain video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from diffusers_helper.engine import Engine
from diffusers_helper.models.load import load_parts
from diffusers_helper.models.table import Checkpoint, find_checkpoint

from .support import FLOAT32, Change, changed_planner, unchanged, video

Load = Callable[[Change], Engine]


@pytest.fixture(scope="session")
def checkpoint(quick_checkpoint: Path) -> Checkpoint:
    return find_checkpoint(str(quick_checkpoint), quick_checkpoint)


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Iterator[Load]:
    """``engine(change)``: the checkpoint, following a changed plan in every video."""
    with ExitStack() as made:

        def load(change: Change) -> Engine:
            planner = changed_planner(checkpoint, FLOAT32, change)
            return made.enter_context(Engine(checkpoint, FLOAT32, load_parts(checkpoint, FLOAT32), planner))

        yield load


@pytest.fixture(scope="session")
def plain(checkpoint: Checkpoint, photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The frames of ``video`` with all on the CPU."""
    planner = changed_planner(checkpoint, FLOAT32, unchanged)
    with Engine(checkpoint, FLOAT32, load_parts(checkpoint, FLOAT32), planner) as made:
        return video(made, photograph, tmp_path_factory.mktemp("plain"))[0]
