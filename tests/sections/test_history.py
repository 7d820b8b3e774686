"""Reading a context plan from the history, and writing a section's result into it."""

import pytest
import torch
from torch import Tensor

from diffusers_helper.sections.context import f1_context, i2v_context, one_frame_context
from diffusers_helper.sections.history import extend, gather_context, initial_history, newest
from tests.plans import plan_video


def frames(*numbers: int) -> Tensor:
    """Latent frames that hold nothing but their number: [1, 1, T, 1, 1]."""
    return torch.tensor(numbers, dtype=torch.float32).view(1, 1, -1, 1, 1)


def numbers(latents: Tensor | None) -> list[int]:
    assert latents is not None
    return latents.flatten().int().tolist()


def test_i2v_looks_at_what_follows_nearest_first() -> None:
    context = gather_context(i2v_context(9, 1), frames(*range(1, 30)), [frames(-1)])
    assert numbers(context.latents) == [-1, 1]
    assert numbers(context.latents_2x) == [2, 3]
    assert numbers(context.latents_4x) == list(range(4, 20))


def test_f1_looks_at_what_came_before_nearest_last() -> None:
    context = gather_context(f1_context(9), frames(*range(1, 30)), [frames(-1)])
    assert numbers(context.latents) == [-1, 29]
    assert numbers(context.latents_2x) == [27, 28]
    assert numbers(context.latents_4x) == list(range(11, 27))


def test_a_short_history_is_filled_with_zeros_on_its_far_side() -> None:
    after = gather_context(i2v_context(9, 0), frames(5, 6), [frames(-1)])
    assert numbers(after.latents) == [-1, 5]
    assert numbers(after.latents_2x) == [6, 0]
    before = gather_context(f1_context(9), frames(5, 6), [frames(-1)])
    assert numbers(before.latents) == [-1, 6]
    assert numbers(before.latents_2x) == [0, 5]


def test_controls_stand_in_their_order() -> None:
    context = gather_context(one_frame_context(3, {0: 7, 1: 0}), frames(), [frames(10), frames(20)])
    assert numbers(context.latents) == [10, 20, 0]
    assert context.index is not None
    assert context.index.tolist() == [7, 0, 10]


@pytest.mark.parametrize("kind", ["framepack", "f1"])
def test_the_history_ends_up_in_time_order(kind: str) -> None:
    plan, start = plan_video(kind, 4.8, 9), frames(-1)
    history = initial_history(plan, [start])
    order = range(len(plan.sections))
    for section, place in zip(plan.sections, reversed(order) if kind == "framepack" else order, strict=True):
        result = frames(*range(place * 9, place * 9 + 9))
        history = extend(history, result, section, plan, [start])
        assert newest(history, section, plan).shape[2] == section.decode_frames
    assert numbers(history) == [-1, *range(9 * len(plan.sections))]
