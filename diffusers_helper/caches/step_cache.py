"""The step-cache interface: what a cache is handed at every step, and what it must be able to say and undo.

A step cache stands in the place of the transformer's blocks. It is handed a *pass* over them, of which it takes what
it needs: what it does not ask for is not computed, and of blocks that it does not run no weight is fetched. One cache
serves one section and one CFG branch: make a new one for each, and no state can leak.

Shapes: B batch, N tokens of the packed image stream, n of them the target's, which are its last; D width; C, T, H, W
channels, frames, rows and columns of the latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ..options import Option
from ..words import Message

if TYPE_CHECKING:  # it works on tensors that it is handed, and a recipe is read without torch
    from torch import Tensor


@dataclass(frozen=True)
class BlockPass:
    """One step's pass over the blocks, good until the step cache returns. Whoever made it closes what was begun.

    Attributes:
        noisy: [B, C, T, H, W], the target's latents that the tokens are made of.
        tokens: [B, N, D], before the blocks.
        targets: n; nothing but the target's tokens is read after the blocks.
        modulated: computes the first block's normed and modulated input, [B, N, D].
        run: begins at the first block and yields the image tokens, [B, N, D], after each; whoever stops early runs no
            more of them.
    """

    noisy: Tensor
    tokens: Tensor
    targets: int
    modulated: Callable[[], Tensor]
    run: Callable[[], Iterator[Tensor]]

    def of_target(self, tokens: Tensor) -> Tensor:
        """The target's of all image tokens, [B, N, D] to [B, n, D]."""
        return tokens[:, -self.targets :]

    def run_all(self) -> Tensor:
        """Run all blocks; the target's tokens after the last one, [B, n, D]."""
        return self.of_target(last(self.run()))


def last(tokens: Iterator[Tensor]) -> Tensor:
    """Run the blocks that are left; the tokens after the last one, [B, N, D]."""
    return deque(tokens, maxlen=1).pop()


class StepCache(ABC):
    """A method that skips blocks on some steps.

    What it knows it keeps in attributes that are replaced, never changed in place; so ``state`` is right for all.

    Attributes:
        computed: one bool per step so far; False where blocks were skipped.
        ratios: what a calibration has measured so far, a number per step; of others empty.
    """

    def __init__(self) -> None:
        self.computed: list[bool] = []
        self.ratios: tuple[float, ...] = ()

    @abstractmethod
    def __call__(self, blocks: BlockPass) -> Tensor:
        """The target's tokens after the blocks, [B, n, D]: of this step, or as good as."""

    def note(self, computed: bool) -> None:
        """Add a step to ``computed``."""
        self.computed = [*self.computed, computed]

    def state(self) -> Callable[[], None]:
        """What it knows now; calling the result brings that back, for a step that is tried again."""
        known = dict(vars(self))
        return lambda: vars(self).update(known)


@dataclass(frozen=True)
class Measured:
    """What has been measured of a checkpoint for its step caches.

    Attributes:
        ratios: MagCache's, each list as long as the number of steps that it was measured with, as they came with it.
        best: what ``auto`` stands for, by its strength.
        read_calibrated: the same lists as this machine has measured them. Asked only where they count, since all files
            of the checkpoint have to be looked at for that.
    """

    ratios: tuple[tuple[float, ...], ...] = ()
    best: Mapping[str, StepCacheOption] = field(default_factory=dict)
    read_calibrated: Callable[[], tuple[tuple[float, ...], ...]] = tuple


NOTHING_MEASURED = Measured()


class StepCacheOption(Option):
    """A step cache that a recipe can ask for; its fields are the cache's parameters.

    Attributes:
        title: its name as people write it, in any language.
        stream_tensors, target_tensors: tensors that one cache keeps from step to step, of the size of the packed image
            stream and of the target's part of it.
    """

    title: ClassVar[str]
    stream_tensors: ClassVar[int] = 0

    @property
    def calibrates(self) -> bool:
        """Whether it measures MagCache's ratios, and reuses nothing."""
        return False

    @property
    def target_tensors(self) -> int:
        """See above."""
        return 1

    def meant(self, measured: Measured) -> StepCacheOption:
        """The option that this one stands for with a checkpoint of which so much is known; most are it themselves."""
        return self

    def lacks(self, measured: Measured) -> Message | None:
        """Why it cannot be had with that checkpoint, and what to do; None where it can."""
        return None

    def remarks(self, measured: Measured, steps: int) -> Iterator[Message]:
        """What is worth knowing before a video of so many steps per section is made with it."""
        yield from ()

    def make(self, sigmas: Sequence[float], measured: Measured) -> StepCache:
        """The cache of one section and of one CFG branch.

        Args:
            sigmas: the noise level of each step.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Rule:
    """When a ``ResidualCache`` reuses. The first and the last step are always computed.

    Attributes:
        sigmas: the noise level of each step.
        threshold: steps are reused while the estimated error stays below it.
        first: so many steps at the beginning are computed.
        in_a_row: at most so many steps are reused one after the other; None for any number.
        forecast: extrapolate the residual, first order in sigma, rather than add the last one.
    """

    sigmas: Sequence[float]
    threshold: float
    first: int = 1
    in_a_row: int | None = None
    forecast: bool = False


class ResidualOption(StepCacheOption):
    """A ``ResidualCache``'s.

    Attributes:
        beside_residuals: tensors of the target's size that it keeps beside the residuals.
    """

    beside_residuals: ClassVar[int] = 0

    threshold: float
    forecast: bool = Field(default=False, description="extrapolate what is reused from the last two computed steps")

    @property
    def target_tensors(self) -> int:
        """See ``StepCacheOption``."""
        return 1 + self.forecast + self.beside_residuals

    def rule(self, sigmas: Sequence[float], first: int = 1, in_a_row: int | None = None) -> Rule:
        """When it reuses, by its threshold."""
        return Rule(sigmas, self.threshold, first, in_a_row, self.forecast)


class ResidualCache(StepCache):
    """Runs all blocks, or adds the residual of earlier steps to the tokens, by the estimated error of that.

    Attributes:
        error: of the step before, as ``estimate`` gave it; 0 after one that was computed.
        residuals: (sigma, [B, n, D]) of the last computed steps, the newest last: what the blocks have added to the
            target's tokens.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self.error, self._in_a_row = 0.0, 0
        self.residuals: tuple[tuple[float, Tensor], ...] = ()

    @abstractmethod
    def estimate(self, blocks: BlockPass) -> float:
        """The error that reusing would have at this step. Asked at every step, also where it decides nothing."""

    def start(self, blocks: BlockPass, run: Iterator[Tensor]) -> Tensor:
        """The tokens that the residual is added to, [B, n, D]; what it takes of ``run`` is not skipped."""
        return blocks.of_target(blocks.tokens)

    def learn(self, blocks: BlockPass, output: Tensor, residual: Tensor) -> None:
        """Told what a computed step gave, [B, n, D] each, before the residual joins ``residuals``."""

    def __call__(self, blocks: BlockPass) -> Tensor:
        """See StepCache."""
        run = blocks.run()
        start = self.start(blocks, run)
        self.error = self.estimate(blocks)
        if not self._must_run(start):
            reused = self._residual(self._sigma)
            self._in_a_row += 1
            self.note(False)
            return start + reused
        output = blocks.of_target(last(run))
        residual = output - start
        self.learn(blocks, output, residual)
        kept = (*self.residuals, (self._sigma, residual))
        self.residuals = kept[-1 - self.rule.forecast :]
        self.error, self._in_a_row = 0.0, 0
        self.note(True)
        return output

    @property
    def _sigma(self) -> float:
        return self.rule.sigmas[len(self.computed)]

    def _must_run(self, start: Tensor) -> bool:
        rule, step = self.rule, len(self.computed)
        if not max(rule.first, 1) <= step < len(rule.sigmas) - 1:
            return True
        if any(residual.shape != start.shape for _, residual in self.residuals):
            self.residuals = ()
        full = rule.in_a_row is not None and self._in_a_row >= rule.in_a_row
        return full or not self.residuals or not self.error < rule.threshold

    def _residual(self, sigma: float) -> Tensor:
        """At a noise level: the line through those of the last two computed steps, else the last one."""
        newest_sigma, newest = self.residuals[-1]
        before_sigma, before = self.residuals[0]
        if newest_sigma == before_sigma:
            return newest
        return before.lerp(newest, (sigma - before_sigma) / (newest_sigma - before_sigma))


def relative_l1(current: Tensor, previous: Tensor) -> float:
    """mean|current - previous| / mean|previous|."""
    return ((current - previous).abs().mean() / previous.abs().mean()).item()
