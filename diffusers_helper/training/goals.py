"""What people want to train, as numbers: a goal and a quality set fields of an order, which can be changed then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VIDEO_KINDS = ("f1", "framepack")


@dataclass(frozen=True)
class Goal:
    """What is to be learnt.

    Attributes:
        rank: how much a LoRA can hold; alpha is the same, so that the rate means the same at each rank.
        rate: how large a step is.
        shift: above 1 more of the noise levels are high, where it is decided what stands where.
    """

    rank: int
    rate: float
    shift: float


GOALS: Mapping[str, Goal] = {
    # It is in every example, so little holds it; a LoRA that holds more learns the examples themselves.
    "style": Goal(rank=16, rate=2e-4, shift=3.0),
    # A face or a figure is many details that belong together: twice the room.
    "character": Goal(rank=32, rate=2e-4, shift=3.0),
    # What moves where is decided at high levels; at low ones there is texture to learn, which is not wanted.
    "motion": Goal(rank=16, rate=2e-4, shift=6.0),
    # kisekaeichi: one picture made of two, so pairs with control pictures; people train it at a high rate.
    "clothes": Goal(rank=16, rate=1e-3, shift=6.0),
}


@dataclass(frozen=True)
class Quality:
    """How much is spent.

    Attributes:
        steps: 1600 is what musubi's documents begin with; a quarter shows whether the data is any good.
        room: the rank is so many times the goal's.
    """

    steps: int
    room: float


QUALITIES: Mapping[str, Quality] = {
    "quick": Quality(steps=400, room=0.5),
    "usual": Quality(steps=1600, room=1.0),
    "thorough": Quality(steps=3200, room=2.0),
}
SAVES = 4
"""How often a training is saved: so much of it is lost at most when the program is killed, and so many files are there
to be compared or averaged."""


def fields_for(goal: str, quality: str, kinds: tuple[str, ...], guidance: float) -> dict[str, Any]:
    """The fields of an order that they set.

    Args:
        kinds, guidance: the checkpoint's.
    """
    wish, spent = GOALS[goal], QUALITIES[quality]
    rank = int(wish.rank * spent.room)
    return {
        "kind": next((kind for kind in kinds if kind in VIDEO_KINDS), VIDEO_KINDS[0]),
        "steps": spent.steps,
        "learning_rate": wish.rate,
        "network_dim": rank,
        "network_alpha": float(rank),
        "discrete_flow_shift": wish.shift,
        "guidance_scale": guidance,
        "save_every_n_steps": spent.steps // SAVES,
    }
