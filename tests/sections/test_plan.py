"""Section plans hold for every length and window, not only for the recorded ones."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_helper.limits import DecodingName
from diffusers_helper.sections.context import ContextPlan, Source, one_frame_context
from diffusers_helper.sections.kinds import padding_schedule, section_count
from tests.plans import plan_video

seconds = st.floats(1, 120)
windows = st.integers(1, 64)
kinds = st.sampled_from(["framepack", "f1"])
decodings = st.sampled_from(["lean", "quality", "reference"])


@given(kinds, seconds, windows)
def test_length_is_known_beforehand(kind: str, length: float, window: int) -> None:
    plan = plan_video(kind, length, window)
    sections = section_count(length, window)
    assert len(plan.sections) == sections
    assert plan.frames == 4 * (window * sections + 1) - 3
    assert abs(plan.frames - 1 - length * 30) <= 2 * window or sections == 1


@given(kinds, seconds, windows)
def test_every_section_adds_a_window_and_the_video_grows_steadily(kind: str, length: float, window: int) -> None:
    plan = plan_video(kind, length, window)
    for section in plan.sections:
        assert len(section.context.target) == window
        assert section.decode_frames <= section.latents_after
    lengths = [section.frames_after for section in plan.sections]
    grown = [after - before for before, after in pairwise(lengths)]
    last_brings_the_start = 4 if kind == "framepack" else 0
    assert grown == [4 * window] * (len(grown) - 1) + [4 * window + last_brings_the_start][: len(grown)]


@given(kinds, seconds, windows, decodings)
def test_clip_and_video_overlap_by_what_both_have(
    kind: str, length: float, window: int, decoding: DecodingName
) -> None:
    plan = plan_video(kind, length, window, decoding)
    for before, section in pairwise(plan.sections):
        clip = 4 * section.decode_frames - 3
        assert before.frames_after + clip - plan.overlap_frames == section.frames_after


@pytest.mark.parametrize("kind", ["framepack", "f1"])
@pytest.mark.parametrize(
    ("decoding", "decoded", "overlap", "fade"),
    [("lean", [9, 11, 11], 5, 4), ("quality", [9, 13, 13], 13, 4), ("reference", [9, 18, 18], 33, None)],
)
def test_what_is_decoded_again_depends_on_the_decoding(
    kind: str, decoding: DecodingName, decoded: list[int], overlap: int, fade: int | None
) -> None:
    """Of frames that two clips have the earlier clip's are shown, up to the last ones, over which it fades."""
    plan = plan_video(kind, 3.6, 9, decoding)
    start = [0, 0, 1] if kind == "framepack" else [1, 0, 0]
    assert [section.decode_frames for section in plan.sections] == [a + b for a, b in zip(decoded, start, strict=True)]
    assert (plan.overlap_frames, plan.fade_frames) == (overlap, fade)


def test_a_small_window_is_decoded_again_as_a_whole() -> None:
    plan = plan_video("f1", 2, 1, "quality")
    assert (plan.overlap_frames, plan.fade_frames) == (1, 1)


@given(kinds, seconds, windows)
def test_time_indices_never_collide(kind: str, length: float, window: int) -> None:
    for section in plan_video(kind, length, window).sections:
        indices = all_indices(section.context)
        assert len(set(indices)) == len(indices)


def all_indices(context: ContextPlan) -> list[int]:
    levels = (context.clean or (), context.clean_2x or (), context.clean_4x or ())
    return [*context.target, *(frame.index for level in levels for frame in level)]


@pytest.mark.parametrize(
    ("sections", "paddings"),
    [(1, (0,)), (2, (1, 0)), (4, (3, 2, 1, 0)), (5, (3, 2, 2, 1, 0)), (7, (3, 2, 2, 2, 2, 1, 0))],
)
def test_padding_schedule(sections: int, paddings: tuple[int, ...]) -> None:
    assert padding_schedule(sections) == paddings


def test_lengths_round_half_to_even_like_the_original() -> None:
    assert section_count(3.0, 9) == 2
    assert section_count(4.2, 9) == 4
    assert section_count(0.1, 9) == 1


def test_one_frame_default_layout() -> None:
    plan = one_frame_context(9, {0: 0})
    assert plan.target == (9,)
    assert [(frame.index, frame.source) for frame in plan.clean or ()] == [(0, Source.PICTURE), (10, Source.ZERO)]
    assert [frame.index for frame in plan.clean_2x or ()] == [11, 12]
    assert [frame.index for frame in plan.clean_4x or ()] == list(range(13, 29))


def test_one_frame_with_two_controls_and_nothing_else() -> None:
    plan = one_frame_context(1, {0: 0, 1: 10}, post=False, history_2x=False, history_4x=False)
    assert [(frame.index, frame.n) for frame in plan.clean or ()] == [(0, 0), (10, 1)]
    assert plan.clean_2x is None
    assert plan.clean_4x is None


def test_one_frame_without_any_context() -> None:
    assert one_frame_context(5, {}, post=False, history_2x=False, history_4x=False).clean is None
