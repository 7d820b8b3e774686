"""However many pages look on, together they ask so many times a second."""

from __future__ import annotations

import pytest

from diffusers_helper.ui.pace import GONE_SECONDS, MOST_PAGES, Pace


class Clock:
    """Time that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("pages", "seconds"), [(1, 1.0), (5, 1.0), (10, 2.0), (40, 8.0)])
def test_many_pages_ask_less_often(pages: int, seconds: float) -> None:
    pace = Pace(Clock())
    assert [pace.seconds(f"page {number}") for number in range(pages)][-1] == seconds


def test_a_page_counts_once_and_is_forgotten_when_it_is_gone() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(40):
        assert pace.seconds("the same") == 1.0
    for number in range(40):
        pace.seconds(f"page {number}")
    clock.now = GONE_SECONDS + 1
    assert pace.seconds("the same") == 1.0


def test_no_number_of_names_fills_the_memory() -> None:
    pace = Pace(Clock())
    for number in range(3 * MOST_PAGES):
        pace.seconds(f"page {number}")
    assert len(pace._last_seen) == MOST_PAGES
