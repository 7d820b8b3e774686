"""The time left, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from diffusers_helper.events import Finished
from diffusers_helper.forecast import UNKNOWN, Paces, Work, times_faster
from diffusers_helper.progress import Forecast, Progress

WORK = Work(steps=25, step_size=100, frame_size=10, clips=(37, 69, 69))
"""Three sections; the first has fewer frames to decode."""
STEP, FRAME, PREPARING = 0.2, 0.3, 1.0
"""Seconds of a computed step and of a frame: decoding takes most of the time, as on a CPU."""
TRUE = Paces(preparing=PREPARING, step=STEP / 100, frame=FRAME / 10, computed=11 / 25)


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def steps(clock: Clock, seconds: float, count: int) -> Iterator[int]:
    for step in range(count):
        clock.now += seconds
        yield step


def computed_steps(clock: Clock, first: float) -> Iterator[bool]:
    """The steps of a section under a step cache: every second one of the later ones is computed."""
    for step in range(25):
        computed = step % 3 == 0 or step in (23, 24)
        clock.now += (first if step == 0 else STEP) if computed else 0.0
        yield computed


def told_and_left(
    known: Paces = UNKNOWN, ratio: float = FRAME / STEP * 10, slower: float = 1.0, saved: int = 0
) -> list[tuple[float, Forecast, float]]:
    """Play a run; (share of it that is over, what was told then, what was left), at everything that is told."""
    clock, told = Clock(), []
    progress = Progress(WORK, ratio, known, saved, max(saved - 1, 0), clock)

    def tell() -> None:
        told.append((clock.now, progress.forecast()))

    tell()
    clock.now += PREPARING
    for section, frames in enumerate(WORK.clips):
        if section >= saved:
            for computed in progress.timed(computed_steps(clock, first=5 * STEP if section == saved else STEP)):
                progress.stepped(computed)
                tell()
        if section >= saved - 1:
            tell()
            with progress.decoding():
                clock.now += frames * FRAME * slower
            progress.clip_is_done(frames, Path("video.mp4"))
            tell()
    return [(at / clock.now, forecast, clock.now - at) for at, forecast in told]


def worst(told: list[tuple[float, Forecast, float]], since: float = 0.0) -> float:
    """The largest error of the time told, against what was left, until nine tenths were over."""
    errors = [abs((now["seconds_left"] or 0.0) / left - 1) for at, now, left in told if since <= at < 0.9]
    assert errors
    return max(errors)


def test_with_what_earlier_videos_took_the_time_is_right_from_the_first_moment() -> None:
    assert worst(told_and_left(TRUE)) < 0.05


def test_a_machine_that_is_slower_today_is_noticed_in_the_first_section() -> None:
    """Paces half as long as they are now; the steps tell it before the first frame is decoded."""
    optimistic = Paces(PREPARING, TRUE.step and TRUE.step / 2, TRUE.frame and TRUE.frame / 2, TRUE.computed)
    told = told_and_left(optimistic)
    assert worst(told) < 0.55
    assert worst(told, since=0.06) < 0.3


def test_the_very_first_video_has_a_time_once_steps_were_measured() -> None:
    """The checkpoint says what a frame is to a step; before two steps are measured nothing is told, not nonsense."""
    told = told_and_left(UNKNOWN, ratio=1.1 * FRAME / STEP * WORK.step_size / WORK.frame_size / 9)
    first = next(at for at, now, _ in told if now["seconds_left"] is not None)
    assert 0 < first < 0.05
    assert {now["fraction"] for at, now, _ in told if at < first} == {None}
    assert worst(told, since=first) < 0.15


def test_a_wrong_ratio_is_mended_by_the_first_clip() -> None:
    told = told_and_left(UNKNOWN, ratio=2 * FRAME / STEP * WORK.step_size / WORK.frame_size / 9)
    assert worst(told, since=0.26) < 0.3


def test_a_decode_that_takes_longer_is_counted_for_the_next() -> None:
    told = told_and_left(TRUE, slower=2.0)
    assert worst(told, since=0.25) < 0.3


@pytest.mark.parametrize("known", [UNKNOWN, TRUE], ids=["first", "known"])
@pytest.mark.parametrize("saved", [0, 1, 2])
def test_the_share_that_is_over_only_grows_and_ends_at_all(known: Paces, saved: int) -> None:
    """What an earlier run has finished counts as done."""
    shares = [now["fraction"] for _, now, _ in told_and_left(known, saved=saved) if now["fraction"] is not None]
    assert shares == sorted(shares)
    assert shares[0] >= round(saved / 3, 3)
    assert shares[-1] == 1
    if known is TRUE:
        assert shares[0] == round(saved / 3, 3)


def test_a_run_that_goes_on_has_less_to_do() -> None:
    whole, rest = (told_and_left(TRUE, saved=saved)[0][1]["seconds_left"] for saved in (0, 2))
    assert whole == pytest.approx(PREPARING + 33 * STEP + 175 * FRAME, abs=0.1)
    assert rest == pytest.approx(PREPARING + 11 * STEP + 138 * FRAME, abs=0.1)


def test_totals_tell_sampling_from_decoding_and_computed_from_reused() -> None:
    clock = Clock()
    progress = Progress(Work(2, 1, 1, (5,)), 1.0, clock=clock)
    for step in progress.timed(steps(clock, 2.0, 2)):
        progress.stepped(computed=step == 0)
        clock.now += 100
    with progress.decoding():
        clock.now += 7
    totals = progress.totals()
    assert (totals["seconds_sampling"], totals["seconds_decoding"], totals["seconds_total"]) == (4.0, 7.0, 211.0)
    assert (totals["steps_computed"], totals["steps_reused"], totals["path"]) == (1, 1, None)


def test_time_is_counted_also_when_decoding_fails() -> None:
    clock = Clock()
    progress = Progress(Work(1, 1, 1, (5,)), 1.0, clock=clock)
    with suppress(RuntimeError), progress.decoding():
        clock.now += 7
        raise RuntimeError
    assert progress.totals()["seconds_decoding"] == 7.0


def test_reused_steps_and_the_first_one_are_measured_apart() -> None:
    clock = Clock()
    progress = Progress(Work(5, 1, 1, (5, 5)), 1.0, clock=clock)
    for first in (9.0, 1.0):
        for seconds in progress.timed(played(clock, first, 0.25, 1.0, 0.25, 1.0)):
            progress.stepped(computed=seconds >= 1)
            clock.now += 100
    totals = progress.totals()
    assert (totals["seconds_first_step"], totals["seconds_reused"], totals["seconds_sampling"]) == (9.0, 1.0, 15.0)
    assert times_faster(Finished(**totals)) == pytest.approx((9 + 9 * 1.0) / 15)


def played(clock: Clock, *seconds: float) -> Iterator[float]:
    """Steps that take so long each."""
    for each in seconds:
        clock.now += each
        yield each


MEASURED = Finished(
    steps_computed=12, steps_reused=13, seconds_sampling=13.3, seconds_reused=1.3, seconds_first_step=1.0
)


def test_how_much_faster_it_was_is_told_of_what_was_measured_alone() -> None:
    """By an earlier version neither the first step nor the reused ones were; and of one step there is no mean."""
    assert times_faster(MEASURED) == pytest.approx(25 / 13.3)
    unmeasured: list[dict[str, float]] = [{"seconds_first_step": 0.0}, {"steps_reused": 0}, {"steps_computed": 2}]
    for less in unmeasured:
        assert times_faster(replace(MEASURED, **less)) is None  # type: ignore[arg-type]
    assert times_faster(Finished()) is None
