"""The time left, on a clock that the test turns."""

from collections.abc import Iterator
from contextlib import suppress

from diffusers_helper.progress import Progress


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


def test_time_left_is_steps_and_decodes_to_come_at_the_pace_so_far() -> None:
    clock = Clock()
    progress = Progress(steps_to_come=4, decodes_to_come=2, clock=clock)
    assert progress.seconds_left() is None
    for _ in progress.timed(steps(clock, 3.0, 2)):
        progress.stepped(computed=True)
        clock.now += 100
    assert progress.seconds_left() == 2 * 3.0
    with progress.decoding():
        clock.now += 5
    assert progress.seconds_left() == 2 * 3.0 + 5
    for _ in progress.timed(steps(clock, 3.0, 2)):
        progress.stepped(computed=False)
    with progress.decoding():
        clock.now += 5
    assert progress.seconds_left() == 0


def test_totals_tell_sampling_from_decoding_and_computed_from_reused() -> None:
    clock = Clock()
    progress = Progress(steps_to_come=2, decodes_to_come=1, clock=clock)
    for step in progress.timed(steps(clock, 2.0, 2)):
        progress.stepped(computed=step == 0)
    with progress.decoding():
        clock.now += 7
    totals = progress.totals()
    assert (totals["seconds_sampling"], totals["seconds_decoding"], totals["seconds_total"]) == (4.0, 7.0, 11.0)
    assert (totals["steps_computed"], totals["steps_reused"], totals["path"]) == (1, 1, None)


def test_time_is_counted_also_when_decoding_fails() -> None:
    clock = Clock()
    progress = Progress(steps_to_come=0, decodes_to_come=1, clock=clock)
    with suppress(RuntimeError), progress.decoding():
        clock.now += 7
        raise RuntimeError
    assert progress.totals()["seconds_decoding"] == 7.0
