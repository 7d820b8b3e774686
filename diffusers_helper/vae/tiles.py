"""Where a frame is cut into tiles that overlap, and how their pixels are put together again. Numbers and plain tensors.

All tiles have the same size and their overlaps differ by one at most, so no tile is a sliver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

PIXELS_PER_LATENT = 8
OVERLAP = 6
"""Latent rows or columns that a tile has in common with the next at least."""


@dataclass(frozen=True)
class Cut:
    """One side of a frame in ``count`` pieces of ``size``, in latent rows or columns.

    Attributes:
        starts: where the pieces begin.
    """

    length: int
    size: int
    starts: tuple[int, ...]

    def weights(self, number: int, scale: int) -> Tensor:
        """How much of each pixel comes from piece ``number``, [scale * size] float32; with those of its neighbours, 1.

        ``scale``: pixels per latent row or column. Over what two pieces have in common one goes over into the other.
        """
        start, end = self.starts[number], self.starts[number] + self.size
        weights = torch.ones(scale * self.size)
        if number > 0:
            ramp = _ramp(scale * (self.starts[number - 1] + self.size - start))
            weights[: len(ramp)] *= ramp
        if number + 1 < len(self.starts):
            ramp = _ramp(scale * (end - self.starts[number + 1]))
            weights[-len(ramp) :] *= 1 - ramp
        return weights


def _ramp(length: int) -> Tensor:
    return (torch.arange(length) + 0.5) / length


def cut(length: int, count: int) -> Cut:
    """``length`` in ``count`` pieces that overlap by OVERLAP at least."""
    size = min(math.ceil((length + (count - 1) * OVERLAP) / count), length)
    room = length - size
    return Cut(length, size, tuple(round(number * room / max(count - 1, 1)) for number in range(count)))


@lru_cache(maxsize=256)
def cuts(rows: int, columns: int, tile: int) -> tuple[Cut, Cut]:
    """The latent rows and columns of a frame, cut so that a tile has at most ``tile`` pixels where that can be had; 0
    does not cut.

    Of the grids that are fine enough the one that computes least is taken, of those the one with the fewest tiles.
    Remembered, since a memory plan asks for each of its candidates.
    """
    if not tile:
        return cut(rows, 1), cut(columns, 1)
    most = tile // PIXELS_PER_LATENT**2
    grids = list(product(_useful(rows), _useful(columns)))
    fine = [grid for grid in grids if _area(grid) <= most] or [min(grids, key=_area)]
    return min(fine, key=lambda grid: (_area(grid) * _tiles(grid), _tiles(grid)))


def _useful(length: int) -> list[Cut]:
    """The cuts of which no overlap is more than half of a piece, so that no pixel belongs to three in a row."""
    found = (cut(length, count) for count in range(1, length // OVERLAP + 2))
    return [each for each in found if len(each.starts) == 1 or each.size >= 2 * OVERLAP + 2]


def _area(grid: tuple[Cut, Cut]) -> int:
    return grid[0].size * grid[1].size


def _tiles(grid: tuple[Cut, Cut]) -> int:
    return len(grid[0].starts) * len(grid[1].starts)
