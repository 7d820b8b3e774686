"""Deltas, norms and rows of every kind, against dense float64 computations over many sizes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_helper.lora.adapters import Adapter, Dense, LoHa, LoKr, LowRank, Rows

from .building import random

sizes = st.integers(1, 12)
alphas = st.one_of(st.none(), st.floats(0, 100))


@st.composite
def adapters(draw: st.DrawFn) -> Adapter:
    """Of any kind; its factors are integers, so that float32 computes them exactly."""

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return random(rows, columns, seed=draw(st.integers(0, 99))).mul(4).round()

    height, width, rank, alpha = draw(sizes), draw(sizes), draw(sizes), draw(alphas)
    kind = draw(st.sampled_from(("low", "loha", "lokr", "dense")))
    if kind == "low":
        return LowRank(down=matrix(rank, width), up=matrix(height, rank), alpha=alpha)
    if kind == "loha":
        a, b = matrix(height, rank), matrix(rank, width)
        return LoHa(w1_a=a, w1_b=b, w2_a=a + 1, w2_b=b - 1, alpha=alpha)
    if kind == "dense":
        return Dense(diff=matrix(height, width))
    whole = {"w2": matrix(height, width)}
    low = {"w2_a": matrix(height, rank), "w2_b": matrix(rank, width)}
    return LoKr(w1=matrix(2, 3), **(whole if draw(st.booleans()) else low), alpha=alpha)


@given(adapters())
def test_the_norm_is_that_of_the_delta(adapter: Adapter) -> None:
    dense, norm = adapter.delta().double(), adapter.norm()
    assert norm is not None
    assert dense.shape == adapter.shape
    torch.testing.assert_close(torch.tensor(norm).double(), dense.norm(), rtol=1e-5, atol=1e-6)


@given(adapters(), st.data())
def test_rows_of_an_adapter_have_the_rows_of_its_delta(adapter: Adapter, data: st.DataObject) -> None:
    height = adapter.shape[0]
    cut = data.draw(st.integers(0, height - 1))
    rows: Rows = data.draw(st.sampled_from((((cut, height),), ((cut, height), (0, cut)), ((0, height),))))
    rows = tuple((start, stop) for start, stop in rows if start < stop)
    expected = torch.cat([adapter.delta()[start:stop] for start, stop in rows])
    assert torch.equal(adapter.rows(rows).delta(), expected)


def test_a_norm_over_more_rows_than_are_computed_at_once() -> None:
    a, b = random(2500, 2), random(2, 7)
    adapter = LoHa(w1_a=a, w1_b=b, w2_a=a, w2_b=b)
    torch.testing.assert_close(adapter.norm(), float(adapter.delta().double().norm()))


def test_alpha_0_has_no_effect() -> None:
    adapter = LowRank(down=random(2, 3), up=random(3, 2), alpha=0.0)
    assert adapter.scale == adapter.norm() == 0.0
    assert not adapter.delta().any()
