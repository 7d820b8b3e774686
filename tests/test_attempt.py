"""Trying again: what a failed attempt has made is gone, without a collection."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from diffusers_helper import memory

Made = list[weakref.ref[Tensor]]


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_a_piece_that_is_moved_again_finds_nothing_of_the_first_try(monkeypatch: pytest.MonkeyPatch) -> None:
    made, alive, calls = Made(), list[bool](), iter(range(100))

    def moved(tensor: Tensor, device: torch.device) -> Tensor:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        copy = tensor.clone()
        made.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(memory, "_moved", moved)
    monkeypatch.setattr(memory, "free_unused", lambda: alive.extend(one() is not None for one in made))
    memory.load_model_chunked(nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(4)]), "cpu")
    assert alive == [False, False]
