"""Passes over blocks that count what is asked of them, and caches driven by numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusers_helper.caches.step_cache import BlockPass, Rule, StepCache
from diffusers_helper.caches.teacache import TeaCache


def sigmas(steps: int) -> tuple[float, ...]:
    return tuple(1 - step / steps for step in range(steps))


class Blocks:
    """Three blocks, each of which adds a third of ``adds``; counts what is asked. Two tokens are context's."""

    def __init__(self, value: float = 0.0, targets: int = 2, adds: float = 3.0) -> None:
        self.tokens = torch.full((1, 2 + targets, 3), value)
        self.target = self.tokens[:, 2:]
        self.run_blocks = self.modulations = 0
        self._adds = adds

    def __call__(self) -> BlockPass:
        noisy = self.target.movedim(-1, 1)[..., None, None].clone()
        return BlockPass(noisy, self.tokens, self.target.shape[1], self._modulated, self._run)

    def _modulated(self) -> Tensor:
        self.modulations += 1
        return self.tokens + 1

    def _run(self) -> Iterator[Tensor]:
        for number in range(1, 4):
            self.run_blocks += 1
            yield self.tokens + number * self._adds / 3


class Told(TeaCache):
    """TeaCache that is told what it would measure."""

    def __init__(self, rule: Rule, measures: Sequence[float]) -> None:
        super().__init__(rule)
        self._measures = measures

    def measure(self, blocks: BlockPass) -> float:
        return self._measures[len(self.computed)]


def decisions(cache: StepCache, steps: int) -> list[bool]:
    """Of so many steps, all of one shape."""
    for _ in range(steps):
        cache(Blocks()())
    return cache.computed


def pattern(cache: StepCache, steps: int) -> str:
    return "".join("C" if computed else "." for computed in decisions(cache, steps))
