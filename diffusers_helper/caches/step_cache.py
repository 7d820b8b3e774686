"""The step-cache interface: what a cache is handed at every step, and what it must be able to say and undo.

A step cache stands in the place of the transformer's blocks. It is handed a *pass* over them, of which it takes what
it needs: what it does not ask for is not computed, and of blocks that it does not run no weight is fetched. One cache
serves one section and one CFG branch: make a new one for each, and no state can leak.

Shapes: B batch, N tokens of the packed image stream, n of them the target's, which are its last; D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..options import Option

if TYPE_CHECKING:  # it works on tensors that it is handed, and a recipe is read without torch
    from torch import Tensor


@dataclass(frozen=True)
class BlockPass:
    """One step's pass over the blocks, good until the step cache returns. Whoever made it closes what was begun.

    Attributes:
        tokens: [B, N, D], before the blocks.
        targets: n; nothing but the target's tokens is read after the blocks.
        modulated: computes the first block's normed and modulated input, [B, N, D].
        run: begins at the first block and yields the image tokens, [B, N, D], after each; whoever stops early runs no
            more of them.
    """

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
    """

    def __init__(self) -> None:
        self.computed: list[bool] = []

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


class StepCacheOption(Option):
    """A step cache that a recipe can ask for; its fields are the cache's parameters.

    Attributes:
        stream_tensors, target_tensors: tensors that one cache keeps from step to step, of the size of the packed image
            stream and of the target's part of it.
    """

    stream_tensors: ClassVar[int] = 0
    target_tensors: ClassVar[int] = 1

    def make(self, steps: int) -> StepCache:
        """The cache of one section of so many steps, and of one CFG branch."""
        raise NotImplementedError


class ResidualCache(StepCache):
    """Runs all blocks, or adds their last residual to the tokens, as ``decide`` says.

    Attributes:
        residual: [B, n, D], what the blocks have added to the target's tokens when they last ran; None before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.residual: Tensor | None = None

    @abstractmethod
    def decide(self, blocks: BlockPass) -> bool:
        """True when this step must run the blocks. Asked at every step; the first one runs them in any case, and so
        does one of another shape than the last."""

    def learn(self, residual: Tensor) -> None:
        """Told the residual of a step that ran the blocks, [B, n, D], before it takes the place of the last."""

    def __call__(self, blocks: BlockPass) -> Tensor:
        """See StepCache."""
        tokens, known = blocks.of_target(blocks.tokens), self.residual
        must_run = self.decide(blocks) or known is None or known.shape != tokens.shape
        self.note(must_run)
        if known is not None and not must_run:
            return tokens + known
        output = blocks.run_all()
        residual = output - tokens
        self.learn(residual)
        self.residual = residual
        return output


def relative_l1(current: Tensor, previous: Tensor) -> float:
    """mean|current - previous| / mean|previous|."""
    return ((current - previous).abs().mean() / previous.abs().mean()).item()
