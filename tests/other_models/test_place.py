"""Which step and branch a call is, with and without names for them, and where a run begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_helper.other_models.place import Place, Steps


@dataclass
class Named:
    name: str
    step_index: int | None = None


COND, UNCOND = Named("cond"), Named("uncond")
A, B, C = (torch.full((1, 2), value) for value in (1.0, 2.0, 3.0))


def steps(*calls: tuple[Tensor, float, Named | None]) -> list[tuple[int, str]]:
    known = Steps()
    return [(place.step, place.branch) for place in (known.enter(*call) for call in calls)]


def begins(*calls: tuple[Tensor, float, Named | None]) -> str:
    """Each call as + where it begins a run, ? where it is doubtful, else as a dot."""
    known = Steps()
    places = [known.enter(*call) for call in calls]
    return "".join("+" if place.begins else "?" if place.doubtful else "." for place in places)


def test_named_branches_share_their_steps() -> None:
    calls = [(A, 9.0, COND), (A, 9.0, UNCOND), (B, 8.0, COND), (B, 8.0, UNCOND)]
    assert steps(*calls) == [(0, "cond"), (0, "uncond"), (1, "cond"), (1, "uncond")]
    assert begins(*calls) == "+..."


def test_without_names_the_second_call_of_a_step_is_the_second_branch() -> None:
    calls = [(A, 9.0, None), (A.clone(), 9.0, None), (B, 8.0, None), (B, 8.0, None)]
    assert steps(*calls) == [(0, "first call"), (0, "second call"), (1, "first call"), (1, "second call")]
    assert begins(*calls, (C, 7.0, None)) == "+.??."


def test_one_call_for_each_step_is_one_branch() -> None:
    assert steps((A, 9.0, None), (B, 8.0, None), (C, 7.0, None)) == [(each, "first call") for each in range(3)]


def test_a_timestep_that_rises_begins_a_run() -> None:
    assert begins((A, 9.0, COND), (B, 8.0, COND), (C, 9.0, COND), (A, 8.0, COND)) == "+.+."


def test_other_latents_at_the_first_step_begin_a_run() -> None:
    assert begins((A, 9.0, None), (B, 9.0, None)) == "++"
    assert begins((A, 9.0, COND), (B, 9.0, COND)) == "++"


def test_latents_that_were_written_over_are_others() -> None:
    known, written = Steps(), A.clone()
    known.enter(written, 9.0, None)
    written.copy_(B)
    assert known.enter(written, 9.0, None) == Place(0, "first call", True, False)


def test_the_same_call_again_begins_a_run() -> None:
    assert begins((A, 9.0, COND), (A, 9.0, COND)) == "++"
    assert begins(*[(A, 9.0, None)] * 5) == "+.+.+"


def test_other_latents_at_a_later_timestep_are_a_step_that_is_doubtful() -> None:
    """Two steps whose timesteps are rounded to one, or the second evaluation of a scheduler of second order."""
    calls = [(A, 9.0, COND), (B, 8.0, COND), (C, 8.0, COND), (C, 8.0, UNCOND), (A, 7.0, COND)]
    assert begins(*calls) == "+.??."
    assert [step for step, _ in steps(*calls)] == [0, 1, 2, 2, 3]


def test_steps_that_are_named_are_believed() -> None:
    first, second, later = (Named("cond", index) for index in (0, 1, 4))
    assert [step for step, _ in steps((A, 9.0, first), (B, 9.0, second), (C, 5.0, later))] == [0, 1, 4]
    assert begins((A, 9.0, first), (B, 9.0, second), (C, 5.0, later)) == "+.."
    assert begins((A, 9.0, first), (B, 9.0, second), (C, 8.0, first)) == "+.+"
    assert begins((A, 9.0, second), (B, 9.0, second)) == "++"


def test_in_inference_mode_it_is_the_same() -> None:
    with torch.inference_mode():
        tokens = A.clone()
        assert begins((tokens, 9.0, None), (tokens, 9.0, None), (B, 8.0, None)) == "+.?"


def test_a_run_can_be_said_to_begin() -> None:
    known = Steps()
    known.enter(A, 9.0, COND)
    known.clear()
    assert known.enter(B, 8.0, COND).begins
