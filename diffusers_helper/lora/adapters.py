"""What a LoRA adds to one linear, in each of the forms that people train: the inner form of every file.

A *delta* is the whole matrix that is added to the linear's weight at strength 1. Factors stay in the numbers of their
file; arithmetic is float32.

Shapes: O rows out, I columns in, R rank.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import Self

from .dialects import DENSE, DORA, LOHA, LOKR, LOW_RANK
from .layers import Rows

ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapter(ABC):
    """The change of one linear.

    Attributes:
        alpha: what the delta is multiplied with, over the rank; None: as large as the rank, so that it stays as it is.

    Raises:
        ValueError: factors that do not fit together.
    """

    kind: ClassVar[str]
    needs_weight: ClassVar[bool] = False
    """Whether the delta depends on the linear's own weight."""
    alpha: float | None = None

    def __post_init__(self) -> None:
        flat = [tensor for name, tensor in self.factors().items() if name != "magnitude"]
        if any(tensor.ndim != 2 or 0 in tensor.shape for tensor in flat):
            raise ValueError("a factor is no matrix, or has no rows or columns")
        if not self._fits():
            raise ValueError("the factors' sizes differ where they must be equal")

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(O, I) of the delta."""

    @property
    def rank(self) -> int | None:
        """Of the factor that alpha is held against; None where alpha counts for nothing."""
        return None

    @property
    def work(self) -> int:
        """Multiplications for each token, beside the linear."""
        return self.shape[0] * self.shape[1]

    @property
    def scale(self) -> float:
        """alpha over rank."""
        return 1.0 if self.alpha is None or self.rank is None else self.alpha / self.rank

    @abstractmethod
    def delta(self, weight: Tensor | None = None) -> Tensor:
        """The change of the weight, scaled: float32 [O, I]. ``weight``: the linear's own; only DoRA needs it."""

    def outputs(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """What is added to the linear's outputs: [..., I] to [..., O], in the numbers of x.

        The delta is made anew at each call: with rank R and N tokens (R + 1) / N of what the linear computes, and then
        it is multiplied like a second weight. ``weight``: see ``delta``.
        """
        return functional.linear(x, self.delta(weight).to(x.dtype))

    def merge_into(self, changed: Tensor, strength: float, weight: Tensor) -> None:
        """Add the delta, times ``strength``, to ``changed``, float32 [O, I], in place. ``weight``: the linear's own."""
        changed.add_(self.delta(weight), alpha=strength)

    def on(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The same with its factors in other numbers on another device."""
        moved: dict[str, Any] = {name: tensor.to(device, dtype) for name, tensor in self.factors().items()}
        return dataclasses.replace(self, **moved)

    @abstractmethod
    def rows(self, rows: Rows) -> Adapter:
        """The adapter whose delta has these rows of this one's."""

    def norm(self) -> float | None:
        """The Frobenius norm of the delta, without the whole of it in memory; None where it depends on the weight."""
        blocks = (self.rows((block,)).delta() for block in _blocks(self.shape[0]))
        return math.sqrt(sum(float(block.double().square().sum()) for block in blocks))

    def factors(self) -> dict[str, Tensor]:
        """The tensors it consists of, by name."""
        named = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in named if isinstance(value, Tensor)}

    def _fits(self) -> bool:
        return True


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair(Adapter):
    """What has two factors, up [O, R] and down [R, I]."""

    down: Tensor
    up: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """See Adapter; alpha / rank * up @ down (Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1)."""
        return self.scale * (self.up.float() @ self.down.float())

    def _fits(self) -> bool:
        return self.up.shape[1] == self.down.shape[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class LowRank(Pair):
    """LoRA: up times down, never multiplied out where the factors do."""

    kind = LOW_RANK

    @property
    def work(self) -> int:
        return self.rank * sum(self.shape)

    def outputs(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """See Adapter; by its factors, R (O + I) / (O I) of what the linear computes."""
        inner = functional.linear(x, self.down.to(x.dtype)) * self.scale
        return functional.linear(inner, self.up.to(x.dtype))

    def merge_into(self, changed: Tensor, strength: float, weight: Tensor) -> None:
        changed.addmm_(self.up.float(), self.down.float(), alpha=strength * self.scale)

    def rows(self, rows: Rows) -> Self:
        return dataclasses.replace(self, up=_take(self.up, rows))

    def norm(self) -> float | None:
        """See Adapter: the trace of (up^T up)(down down^T), which are R by R."""
        up, down = self.up.double(), self.down.double()
        return self.scale * math.sqrt(max(float(((up.T @ up) * (down @ down.T)).sum()), 0.0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Dora(Pair):
    """DoRA: the changed weight, each of its rows brought to the length in ``magnitude`` [O] or [O, 1].

    Lengths over the rows only, as peft has them: over the columns a layer could not be cut by rows.
    """

    kind = DORA
    needs_weight = True
    magnitude: Tensor

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """See Adapter; Liu et al. 2024, https://arxiv.org/abs/2402.09353, equation 5, less the weight. Raises
        ValueError without the weight."""
        if weight is None:
            raise ValueError("the delta of DoRA depends on the weight")
        changed = weight.float() + super().delta()
        lengths = torch.linalg.vector_norm(changed, dim=1, keepdim=True)
        return changed * (self.magnitude.float().reshape(-1, 1) / lengths) - weight.float()

    def on(self, device: torch.device, dtype: torch.dtype) -> Self:
        """See Adapter. The magnitude keeps its numbers: the whole weight is multiplied with it."""
        return dataclasses.replace(super().on(device, dtype), magnitude=self.magnitude.to(device))

    def rows(self, rows: Rows) -> Self:
        return dataclasses.replace(self, up=_take(self.up, rows), magnitude=_take(self.magnitude, rows))

    def norm(self) -> float | None:
        return None

    def _fits(self) -> bool:
        return super()._fits() and self.magnitude.shape in ((self.shape[0],), (self.shape[0], 1))


@dataclass(frozen=True, eq=False, kw_only=True)
class LoHa(Adapter):
    """The elementwise product of two low ranks: a [O, R], b [R, I]."""

    kind = LOHA
    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.w1_a.shape[0], self.w1_b.shape[1]

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """See Adapter; Yeh et al. 2023, https://arxiv.org/abs/2309.14859, section 3.2."""
        first, second = self.w1_a.float() @ self.w1_b.float(), self.w2_a.float() @ self.w2_b.float()
        return self.scale * (first * second)

    def rows(self, rows: Rows) -> Self:
        return dataclasses.replace(self, w1_a=_take(self.w1_a, rows), w2_a=_take(self.w2_a, rows))

    def _fits(self) -> bool:
        inner = self.w1_a.shape[1] == self.w1_b.shape[0] and self.w2_a.shape[1] == self.w2_b.shape[0]
        return inner and self.w1_a.shape[0] == self.w2_a.shape[0] and self.w1_b.shape[1] == self.w2_b.shape[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class LoKr(Adapter):
    """The Kronecker product of w1 and w2, each whole or a low rank, a times b."""

    kind = LOKR
    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        (o1, i1), (o2, i2) = _size(self.w1, self.w1_a, self.w1_b), _size(self.w2, self.w2_a, self.w2_b)
        return o1 * o2, i1 * i2

    @property
    def rank(self) -> int | None:
        """That of w2, or else of w1. None where both are whole: their alpha is ignored by everybody who trains them."""
        low = self.w2_b if self.w2_b is not None else self.w1_b
        return None if low is None else low.shape[0]

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """See Adapter; Yeh et al. 2023, https://arxiv.org/abs/2309.14859, section 3.3."""
        return self.scale * torch.kron(*self._both())

    def rows(self, rows: Rows) -> Adapter:
        """See Adapter: rows of a Kronecker product are none, so they are dense."""
        return self if rows == ((0, self.shape[0]),) else Dense(diff=_take(self.delta(), rows))

    def norm(self) -> float | None:
        """See Adapter: the norm of a Kronecker product is that of both."""
        first, second = (float(torch.linalg.matrix_norm(each.double())) for each in self._both())
        return self.scale * first * second

    def _both(self) -> tuple[Tensor, Tensor]:
        return _product(self.w1, self.w1_a, self.w1_b), _product(self.w2, self.w2_a, self.w2_b)

    def _fits(self) -> bool:
        return _whole_or_low(self.w1, self.w1_a, self.w1_b) and _whole_or_low(self.w2, self.w2_a, self.w2_b)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dense(Adapter):
    """The delta itself [O, I]: a part of what cannot be cut otherwise, or a difference as it was extracted."""

    kind = DENSE
    diff: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.diff.shape[0], self.diff.shape[1]

    def delta(self, weight: Tensor | None = None) -> Tensor:
        return self.diff.float()

    def rows(self, rows: Rows) -> Self:
        return dataclasses.replace(self, diff=_take(self.diff, rows))


def _take(tensor: Tensor, rows: Rows) -> Tensor:
    ranges = [tensor[start:stop] for start, stop in rows]
    return ranges[0] if len(ranges) == 1 else torch.cat(ranges)


def _blocks(height: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + ROWS_AT_ONCE, height)) for start in range(0, height, ROWS_AT_ONCE))


def _whole_or_low(whole: Tensor | None, a: Tensor | None, b: Tensor | None) -> bool:
    """Whether exactly one of both is there, and fits."""
    if whole is not None:
        return a is None and b is None
    return a is not None and b is not None and a.shape[1] == b.shape[0]


def _size(whole: Tensor | None, a: Tensor | None, b: Tensor | None) -> tuple[int, int]:
    if a is None or b is None:
        assert whole is not None  # noqa: S101 - what _fits has seen
        return whole.shape[0], whole.shape[1]
    return a.shape[0], b.shape[1]


def _product(whole: Tensor | None, a: Tensor | None, b: Tensor | None) -> Tensor:
    """Whole in float32."""
    if a is None or b is None:
        assert whole is not None  # noqa: S101 - what _fits has seen
        return whole.float()
    return a.float() @ b.float()
