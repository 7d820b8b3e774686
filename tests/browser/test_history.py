"""The history in a real browser: what is found, what is used again, and that news disturb nothing that is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.jobs.job import ENDED
from tests.jobs_support import make_picture, make_request, wait_until

from .conftest import Serve, Served, Visit
from .test_page import open_tab

CARD = ".q-card"


def make(place: Served, folder: Path, *prompts: str) -> None:
    """Let the page make a video for each prompt."""
    for prompt in prompts:
        job = place.queue.add(make_request(make_picture(folder), prompt=prompt))
        wait_until(lambda number=job.id: place.queue.job(number).state in ENDED, "the end")  # type: ignore[misc]


@pytest.fixture
def history(serve: Serve, visit: Visit, tmp_path: Path) -> tuple[Served, Any]:
    """Two finished videos, and a page that shows them."""
    place = serve()
    make(place, tmp_path, "the sea at night", "a cat")
    page = visit(place)
    open_tab(page, "Queue")
    page.locator(CARD).nth(1).wait_for()
    return place, page


def cards(page: Any, count: int) -> None:
    page.wait_for_function(f"() => document.querySelectorAll('{CARD}').length === {count}")


def test_the_filter_finds_typed_and_pasted_words(history: tuple[Served, Any]) -> None:
    _, page = history
    find = page.locator("#history-find input, #history-find textarea").first
    find.fill("night sea")
    cards(page, 1)
    assert "the sea at night" in page.locator(CARD).inner_text()
    find.fill("")
    cards(page, 2)
    find.press_sequentially("#2")
    cards(page, 1)
    assert "a cat" in page.locator(CARD).inner_text()


def test_news_leave_what_is_looked_at_alone(history: tuple[Served, Any], tmp_path: Path) -> None:
    """A new video takes its place in front; the others, one of them unfolded, are the same elements as before."""
    place, page = history
    page.locator(f"{CARD} summary").first.click()
    page.evaluate(f"() => document.querySelectorAll('{CARD}').forEach((card, number) => {{ card.mark = number; }})")
    make(place, tmp_path, "a third")
    cards(page, 3)
    assert page.evaluate(f"() => [...document.querySelectorAll('{CARD}')].map(card => card.mark)") == [None, 0, 1]
    assert page.locator(f"{CARD} details[open]").count() == 1


def test_the_last_frame_becomes_the_start_picture(history: tuple[Served, Any]) -> None:
    _, page = history
    page.locator(f"{CARD} [data-act=last_frame]").first.click()
    page.locator("#picture img").wait_for()
    page.wait_for_function("() => document.querySelector('#picture img').naturalWidth === 64")
    assert page.locator("#start").is_visible()


def test_settings_are_used_again_with_their_picture(history: tuple[Served, Any]) -> None:
    _, page = history
    page.locator(f"{CARD} [data-act=use]").last.click()
    page.wait_for_function("() => document.querySelector('#prompt textarea').value === 'the sea at night'")
    page.wait_for_function("() => document.querySelector('#picture img')?.naturalWidth === 64")


def test_what_was_deleted_comes_back(history: tuple[Served, Any]) -> None:
    place, page = history
    video = place.queue.result(2)
    page.locator(f"{CARD} [data-act=trash]").first.click()
    cards(page, 1)
    assert not video.exists()
    page.locator("[data-act=undo]").press("Enter")
    cards(page, 2)
    assert video.is_file()
    page.wait_for_function("() => document.activeElement.dataset.act")


def test_a_poster_plays_while_it_is_pointed_at_and_opens_on_the_stage(history: tuple[Served, Any]) -> None:
    _, page = history
    poster = page.locator(f"{CARD} [data-film]").last
    assert poster.locator("video").count() == 0
    poster.hover()
    page.wait_for_function(f"() => document.querySelector('{CARD} video')?.currentTime > 0")
    page.mouse.move(0, 0)
    poster.locator("video").wait_for(state="detached")
    poster.click()
    page.locator("[data-live=job]", has_text="the sea at night").wait_for()
    assert page.locator("#start").is_visible()
