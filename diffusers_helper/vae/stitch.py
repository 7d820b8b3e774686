"""Cross-fading overlapping clips into one growing video, keeping only the frames that can still change.

Shapes: clips are [B, 3, F, height, width].
"""

from __future__ import annotations

import torch
from torch import Tensor


def soft_append(first: Tensor, second: Tensor, overlap: int, fade: int | None = None) -> Tensor:
    """Two clips joined; the last ``overlap`` frames of ``first`` fade into the first ones of ``second``.

    With ``fade`` only the last so many of them do, the others are those of ``first``. Without it all of them do, as in
    the original, and the first and the last one are those of one clip alone.

    Raises:
        ValueError: when a clip is shorter than the overlap.
    """
    if overlap <= 0:
        return torch.cat([first, second], dim=2)
    if min(first.shape[2], second.shape[2]) < overlap:
        raise ValueError(f"clips of {first.shape[2]} and {second.shape[2]} frames cannot overlap by {overlap}")
    if fade is None:
        weight = torch.linspace(1, 0, overlap, dtype=first.dtype, device=first.device)
    else:
        second, overlap = second[:, :, overlap - fade :], fade
        weight = torch.linspace(1, 0, fade + 2, dtype=first.dtype, device=first.device)[1:-1]
    weight = weight.view(1, 1, -1, 1, 1)
    blended = weight * first[:, :, -overlap:] + (1 - weight) * second[:, :, :overlap]
    return torch.cat([first[:, :, :-overlap], blended, second[:, :, overlap:]], dim=2).to(first.dtype)


class Stitcher:
    """A video that grows at one end. Only its last ``overlap`` frames there can still change; only they are kept.

    Attributes:
        tail: those frames, None before the first clip and after the last.
    """

    def __init__(self, overlap: int, at_front: bool, fade: int | None = None) -> None:
        """``fade``: see ``soft_append``."""
        self.tail: Tensor | None = None
        self._overlap, self._at_front, self._fade = overlap, at_front, fade

    def add(self, clip: Tensor, is_last: bool) -> Tensor:
        """Blend ``clip`` in; returns the frames that became final by it, possibly none."""
        joined = self._join(clip)
        if is_last:
            self.tail = None
            return joined
        fixed = joined.shape[2] - self._overlap
        if self._at_front:
            self.tail, final = joined[:, :, : self._overlap], joined[:, :, self._overlap :]
        else:
            final, self.tail = joined[:, :, :fixed], joined[:, :, fixed:]
        return final

    def _join(self, clip: Tensor) -> Tensor:
        if self.tail is None:
            return clip
        first, second = (clip, self.tail) if self._at_front else (self.tail, clip)
        return soft_append(first, second, self._overlap, self._fade)
