"""Rotary embeddings: the trained positions to the last bit, and rows and columns divided by a factor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_helper.models.rotary import Rotary, rotary_table
from diffusers_helper.models.transformer import FramePackTransformer, _pool_rotary

from .tiny import tiny_inputs, tiny_transformer

CPU = torch.device("cpu")
TIMES = torch.tensor([0, 3, 10])
CONTEXT = ("latents_history_4x", "latents_history_2x", "latents_clean")


@pytest.fixture(scope="module")
def transformer() -> FramePackTransformer:
    return tiny_transformer()


def test_a_factor_of_one_is_diffusers_own_table_to_the_last_bit(transformer: FramePackTransformer) -> None:
    theirs = transformer.rope(frame_indices=TIMES, height=12, width=8, device=CPU)
    assert all(map(torch.equal, rotary_table(transformer.rope, TIMES, (6, 4), CPU, 1.0), theirs))


@pytest.mark.parametrize("factor", [0.5, 1.2, 2.0])
def test_rows_and_columns_are_divided_and_time_is_not(transformer: FramePackTransformer, factor: float) -> None:
    """Against the formula: position / theta^(2i/width), each for two channels."""
    cos, sin = rotary_table(transformer.rope, TIMES, (6, 4), CPU, factor)
    at = [(t.item(), row / factor, column / factor) for t in TIMES for row in range(6) for column in range(4)]
    angles = [
        [position / transformer.rope.theta ** (2 * (channel // 2) / width) for channel in range(width)]
        for axis, width in enumerate(transformer.rope.rope_dim)
        for position in (place[axis] for place in at)
    ]
    count = len(at)
    axes = [torch.tensor(angles[count * axis : count * (axis + 1)], dtype=torch.float64) for axis in range(3)]
    expected = torch.cat(axes, dim=1)
    torch.testing.assert_close(cos.double(), expected.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(sin.double(), expected.sin(), rtol=0, atol=1e-6)


def test_a_frame_of_twice_the_sides_spans_the_trained_positions(transformer: FramePackTransformer) -> None:
    for trained, larger in zip(
        rotary_table(transformer.rope, TIMES, (3, 2), CPU),
        rotary_table(transformer.rope, TIMES, (6, 4), CPU, 2.0),
        strict=True,
    ):
        assert torch.equal(larger.unflatten(0, (3, 6, 4))[:, ::2, ::2].flatten(0, 2), trained)


def seen(transformer: FramePackTransformer, inputs: dict[str, Any], **options: Any) -> tuple[Rotary, Tensor]:
    """The table that the blocks get, and the velocity."""
    tables: list[Rotary] = []
    handle = transformer.transformer_blocks[0].register_forward_pre_hook(lambda _, given: tables.append(given[4]))
    with torch.inference_mode():
        velocity = transformer(**inputs, **options)
    handle.remove()
    return tables[0], velocity


def test_every_level_is_scaled_before_it_is_averaged(transformer: FramePackTransformer) -> None:
    inputs = tiny_inputs(height=12, width=8)
    ((cos, _), _) = seen(transformer, inputs, rope_factor=1.5)
    levels = [(inputs[f"indices_{name}"], kernel) for name, kernel in zip(CONTEXT, ((4,) * 3, (2,) * 3, None))]  # noqa: B905
    expected = []
    for indices, kernel in [*levels, (inputs["indices_latents"], None)]:
        table, _ = rotary_table(transformer.rope, indices, (6, 4), CPU, 1.5)
        expected.append(table if kernel is None else _pool_rotary(table, (6, 4), kernel))
    assert torch.equal(cos, torch.cat(expected))
    ((plain, _), _) = seen(transformer, inputs)
    parts = [len(part) for part in expected]
    assert not any(map(torch.equal, cos.split(parts), plain.split(parts)))


@pytest.mark.parametrize("left_out", [(), ("latents_history_4x", "latents_history_2x"), CONTEXT])
def test_it_changes_what_is_made_and_leaves_nothing_behind(
    transformer: FramePackTransformer, left_out: tuple[str, ...]
) -> None:
    gone = {name: None for level in left_out for name in (level, f"indices_{level}")}
    inputs = {**tiny_inputs(), **gone}
    _, before = seen(transformer, inputs)
    _, scaled = seen(transformer, inputs, rope_factor=1.5)
    assert not torch.equal(scaled, before)
    for same in ({}, {"rope_factor": 1.0}):
        assert torch.equal(seen(transformer, inputs, **same)[1], before)
