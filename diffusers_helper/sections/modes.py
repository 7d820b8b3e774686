"""Ways of making one picture that people know by name: presets over the fields of the kind ``one_frame``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .kinds import OneFrame


@dataclass(frozen=True)
class Mode:
    """What a mode sets.

    Attributes:
        kind: where in time everything stands.
        latent_window: what its post, 2x and 4x context lie behind.
        fewest: pictures that it needs.
    """

    kind: OneFrame
    latent_window: int = 9
    fewest: int = 1

    def flat(self) -> dict[str, Any]:
        """Its fields by their flat names."""
        of_kind = {f"{OneFrame.name}_{name}": value for name, value in self.kind.model_dump().items()}
        return {**of_kind, "latent_window": self.latent_window}


MODES: Mapping[str, Mode] = {
    "one_frame": Mode(OneFrame()),
    "oichi": Mode(OneFrame(target_index=4, control_index="0;13")),
    "kisekaeichi": Mode(
        OneFrame(target_index=1, control_index="0;10", post=False, history_2x=False, history_4x=False), fewest=2
    ),
    "1f-mc": Mode(OneFrame(control_index="0;1", history_2x=False, history_4x=False), fewest=2),
}
