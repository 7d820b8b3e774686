"""What a job can be about: a video or a picture, or a training. The table of all there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from ..request import Request
from ..training.order import TrainingOrder

Work: TypeAlias = Request | TrainingOrder
KINDS: Mapping[str, type[Request] | type[TrainingOrder]] = {"video": Request, "training": TrainingOrder}
"""What the queue's file calls each, and what reads it there."""


def kind_of(work: Work) -> str:
    """What the queue's file calls it."""
    return next(name for name, made in KINDS.items() if isinstance(work, made))


def title_of(work: Work) -> str:
    """What people know it by: the prompt; of a training the name of its LoRA."""
    return Path(work.out).stem if isinstance(work, TrainingOrder) else work.prompt
