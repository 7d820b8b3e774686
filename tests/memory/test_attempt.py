"""Trying again: what a failed attempt has made is gone before the next, and after the last, without a collection."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Lock

import pytest
import torch
from torch import Tensor, nn

from diffusers_helper.memory import moves, tensors, vram
from diffusers_helper.memory.degradation import Degradation

Made = list[weakref.ref[Tensor]]


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class NoFallback(Degradation):
    """Looks whether what was made is there still."""

    def __init__(self, made: Made) -> None:
        self.made, self.alive, self._changing = made, list[bool](), Lock()

    def use_less(self, shortage: str) -> str | None:
        self.alive.append(self.made[-1]() is not None)
        return None


def fail(made: Made) -> None:
    tensor = torch.empty(10)
    made.append(weakref.ref(tensor))
    raise torch.OutOfMemoryError("CUDA out of memory")


def fail_chained(made: Made) -> None:
    try:
        fail(made)
    except RuntimeError as error:
        raise RuntimeError("CUDA out of memory, says a library") from error


@pytest.mark.parametrize("work", [fail, fail_chained])
def test_a_fallback_finds_nothing_of_the_attempt(work: Callable[[Made], None]) -> None:
    made: Made = []
    degradation = NoFallback(made)
    with pytest.raises(RuntimeError):
        degradation.attempt("sample", lambda: work(made))
    assert degradation.alive == [False]


def test_a_failure_holds_nothing_once_it_is_told() -> None:
    """A cycle of error and frame would keep the step caches, which are locals of the section."""
    made: Made = []

    def section() -> None:
        cache = torch.empty(10)
        made.append(weakref.ref(cache))
        NoFallback(made).attempt("sample", lambda: fail([weakref.ref(cache)]))

    with suppress(RuntimeError):
        section()
    assert made[0]() is None


def test_a_piece_that_is_moved_again_finds_nothing_of_the_first_try(monkeypatch: pytest.MonkeyPatch) -> None:
    made, alive, calls = Made(), list[bool](), iter(range(100))

    def moved(tensor: Tensor, device: torch.device) -> Tensor:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        copy = tensor.clone()
        made.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(tensors, "moved", moved)
    monkeypatch.setattr(vram, "free_unused", lambda: alive.extend(one() is not None for one in made))
    moves.load_model_chunked(nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(4)]), "cpu")
    assert alive == [False, False]
