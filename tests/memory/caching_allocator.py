"""A model of PyTorch's CUDA allocator on a card of so many bytes: segments, best fit, splits, merges, release, retry.

Ordinary segments are blocks of the driver, at least 20 MB and never moved: a hole that is too small helps nobody. With
expandable segments there is one range of addresses, into which memory is mapped in pieces of 20 MB, and out of which
unused pieces go again before anything is refused. Requests up to 1 MB are served from elsewhere and left out.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from .recording import Step

ROUNDED_BYTES, LARGE_ROUNDED_BYTES, PIECE_BYTES = 512, 2 * 2**20, 20 * 2**20
LARGE_BYTES, LEAST_REST_BYTES = 10 * 2**20, 2**20
"""From here on a request gets a segment of its own size; and what is worth splitting off."""


class OutOfMemoryError(Exception):
    """What PyTorch would raise."""


class Allocator(Protocol):
    """Hands out memory of a card of ``cap`` bytes; ``most`` is what it has held of it at once."""

    most: int

    def allocate(self, size: int) -> object: ...
    def free(self, block: object) -> None: ...
    def empty_cache(self) -> None: ...


@dataclass(eq=False)
class _Block:
    size: int
    used: bool = True
    before: _Block | None = None
    after: _Block | None = None


class OrdinarySegments:
    """What PyTorch does by default."""

    def __init__(self, cap: int) -> None:
        self.most = self._reserved = 0
        self._cap, self._unused = cap, list[_Block]()

    def allocate(self, size: int) -> _Block:
        size = _up(size, ROUNDED_BYTES)
        fitting = [block for block in self._unused if block.size >= size]
        block = min(fitting, key=lambda block: block.size, default=None) or self._segment(size)
        if block in self._unused:
            self._unused.remove(block)
        block.used = True
        if block.size - size > LEAST_REST_BYTES:
            rest = _Block(block.size - size, False, block, block.after)
            if block.after:
                block.after.before = rest
            block.size, block.after = size, rest
            self._unused.append(rest)
        return block

    def free(self, block: _Block) -> None:  # type: ignore[override]
        block.used = False
        for other in (block.before, block.after):
            if other and not other.used:
                self._unused.remove(other)
                block.size += other.size
                if other is block.before:
                    block.before = other.before
                else:
                    block.after = other.after
        if block.before:
            block.before.after = block
        if block.after:
            block.after.before = block
        self._unused.append(block)

    def empty_cache(self) -> None:
        whole = [block for block in self._unused if not block.before and not block.after]
        self._reserved -= sum(block.size for block in whole)
        self._unused = [block for block in self._unused if block not in whole]

    def _segment(self, size: int) -> _Block:
        asked = PIECE_BYTES if size < LARGE_BYTES else _up(size, LARGE_ROUNDED_BYTES)
        if self._reserved + asked > self._cap:
            self.empty_cache()
        if self._reserved + asked > self._cap:
            raise OutOfMemoryError(
                f"{size / 1e9:.2f} GB, {self._reserved / 1e9:.2f} of {self._cap / 1e9:.2f} are taken"
            )
        self._reserved += asked
        self.most = max(self.most, self._reserved)
        return _Block(asked)


class _Range:
    """Addresses, and the pieces that they touch, a bit for each."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.pieces = (1 << -(-end // PIECE_BYTES)) - (1 << start // PIECE_BYTES)


class ExpandableSegments:
    """PyTorch with ``expandable_segments:True``."""

    def __init__(self, cap: int) -> None:
        self.most = self._mapped = 0
        self._cap, self._used = cap, list[_Range]()

    def allocate(self, size: int) -> _Range:
        size = _up(size, ROUNDED_BYTES)
        start = self._best_fit(size)
        made = _Range(start, start + size)
        if self._bytes_with(made) > self._cap:
            self.empty_cache()
        if self._bytes_with(made) > self._cap:
            taken = self._mapped.bit_count() * PIECE_BYTES
            raise OutOfMemoryError(f"{size / 1e9:.2f} GB, {taken / 1e9:.2f} of {self._cap / 1e9:.2f} are taken")
        self._mapped |= made.pieces
        self.most = max(self.most, self._mapped.bit_count() * PIECE_BYTES)
        insort(self._used, made, key=lambda used: used.start)
        return made

    def free(self, block: _Range) -> None:  # type: ignore[override]
        self._used.remove(block)

    def empty_cache(self) -> None:
        self._mapped = 0
        for used in self._used:
            self._mapped |= used.pieces

    def _bytes_with(self, more: _Range) -> int:
        return (self._mapped | more.pieces).bit_count() * PIECE_BYTES

    def _best_fit(self, size: int) -> int:
        """The smallest mapped gap that is large enough; else the first gap, which is mapped; the last has no end."""
        starts = [0, *(used.end for used in self._used)]
        ends = (used.start for used in self._used)
        wide = [_Range(*gap) for gap in zip(starts, ends, strict=False) if gap[1] - gap[0] >= size]
        mapped = [gap for gap in wide if not gap.pieces & ~self._mapped]
        best = min(mapped, key=lambda gap: gap.end - gap.start, default=None)
        return best.start if best else wide[0].start if wide else starts[-1]


def replay(steps: Iterable[Step], allocator: Allocator) -> None:
    """Let it serve what was recorded; raises OutOfMemoryError where it cannot."""
    alive: dict[int, object] = {}
    try:
        for number, size in steps:
            if size:
                alive[number] = allocator.allocate(size)
            else:
                allocator.free(alive.pop(number))
    finally:
        for block in alive.values():
            allocator.free(block)


def smallest_card(steps: list[Step], kind: type[OrdinarySegments] | type[ExpandableSegments]) -> int:
    """The fewest bytes, to 50 MB, of which ``kind`` serves what was recorded."""
    held, now = 0, 0
    sizes: dict[int, int] = {}
    for number, size in steps:
        now += size or -sizes.pop(number)
        sizes[number] = size
        held = max(held, now)
    low, high = held // 10**6, 2 * held // 10**6
    while high - low > 50:
        middle = (low + high) // 2
        try:
            replay(steps, kind(middle * 10**6))
            high = middle
        except OutOfMemoryError:
            low = middle
    return high * 10**6


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
