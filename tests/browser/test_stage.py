"""The stage in a real browser: what is in sight, what can be looked at, and the player."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.events import Preview
from tests.jobs_support import Hold, make_picture

from .conftest import Serve, Visit
from .test_history import make
from .test_page import ask_for, open_tab

SIZE = 64


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Holds a job in its second section, when there is a preview and a video so far."""
    held = Hold(lambda event: isinstance(event, Preview) and event.section == 2)
    yield held
    held.go.set()


def boxes(page: Any, *selectors: str) -> list[dict[str, float]]:
    return [page.locator(selector).first.bounding_box() for selector in selectors]


def test_start_and_the_preview_are_in_sight_together(serve: Serve, visit: Visit, tmp_path: Path, hold: Hold) -> None:
    page = visit(serve(hold), viewport={"width": 1440, "height": 900})
    page.locator("#advanced button").first.click()
    ask_for(page, make_picture(tmp_path))
    assert hold.reached.wait(60)
    page.locator("[data-shot=preview]").wait_for()
    page.locator("#said", has_text="Job 1 starts now.").wait_for(state="hidden")
    start, screen, preview = boxes(page, "#start", ".screen", "[data-shot=preview]")
    assert start["y"] + start["height"] <= 900
    assert screen["y"] + screen["height"] <= 900
    assert screen["width"] > 1.8 * start["width"], "the result has most of the page"
    assert SIZE < preview["width"] <= 3 * SIZE, "a small picture is not stretched further"
    page.locator("[data-view=start]").click()
    page.locator("[data-shot=start]").wait_for()
    assert not page.locator("[data-shot=preview]").is_visible()


def test_on_a_phone_start_stays_in_sight_and_leads_to_the_stage(
    serve: Serve, visit: Visit, tmp_path: Path, hold: Hold
) -> None:
    page = visit(serve(hold), viewport={"width": 390, "height": 844})
    (start,) = boxes(page, "#start")
    assert start["y"] + start["height"] <= 844
    ask_for(page, make_picture(tmp_path))
    assert hold.reached.wait(60)
    page.locator("[data-shot=preview]").wait_for()
    page.wait_for_function("() => document.querySelector('.screen').getBoundingClientRect().bottom <= innerHeight")


def test_who_wants_no_motion_sees_a_still_preview(serve: Serve, visit: Visit, tmp_path: Path, hold: Hold) -> None:
    place = serve(hold)
    for motion, running in (("no-preference", 1), ("reduce", 0)):
        page = visit(place, reduced_motion=motion)
        if running:
            ask_for(page, make_picture(tmp_path))
        assert hold.reached.wait(60)
        page.locator("[data-shot=preview] img").wait_for()
        assert page.evaluate("() => document.querySelector('.film').getAnimations({subtree: true}).length") == running


@pytest.fixture
def watched(serve: Serve, visit: Visit, tmp_path: Path) -> Any:
    """A page that shows the second of two finished videos."""
    place = serve()
    make(place, tmp_path, "the sea at night", "a cat")
    page = visit(place)
    page.wait_for_function("() => document.querySelector('.screen video')?.readyState > 2")
    return page


def frame(page: Any, number: int) -> None:
    page.wait_for_function(f"() => document.querySelector('.player output').textContent === '{number}'")


def test_a_video_is_watched_frame_by_frame_by_buttons_and_keys(watched: Any) -> None:
    watched.locator("[data-place]").fill("7")
    frame(watched, 7)
    watched.locator("[data-player=forward]").click()
    frame(watched, 8)
    watched.locator("body").press(".")
    frame(watched, 9)
    watched.locator("body").press(",")
    watched.locator("[data-player=back]").click()
    frame(watched, 7)
    watched.locator("#prompt textarea").press_sequentially("a, b.")
    frame(watched, 7)


def test_the_loop_is_a_switch_that_is_remembered(watched: Any) -> None:
    assert watched.evaluate("() => document.querySelector('.screen video').loop")
    watched.locator("[data-player=loop]").click()
    watched.reload()
    watched.locator("[data-player=loop][aria-pressed=false]").wait_for()
    assert not watched.evaluate("() => document.querySelector('.screen video').loop")


IPHONE = """() => {
    delete Element.prototype.requestFullscreen;
    HTMLVideoElement.prototype.webkitEnterFullscreen = function () { this.dataset.fills = 'the display'; };
}"""


def test_before_and_after_stand_over_each_other(watched: Any) -> None:
    watched.locator("[data-view=both]").click()
    before, after = boxes(watched, "[data-shot=start]", "[data-shot=video]")
    assert before == after
    watched.locator("[data-cut]").fill("20")
    assert "80%" in watched.evaluate("() => getComputedStyle(document.querySelector('[data-shot=start]')).clipPath")
    watched.evaluate(IPHONE)
    watched.locator("[data-player=full]").click()
    watched.locator(".screen video[data-fills]").wait_for()
    watched.evaluate("() => { delete HTMLVideoElement.prototype.webkitEnterFullscreen; }")
    watched.evaluate("() => framepack.wish({show: '1'})")
    watched.locator(".views[data-job='1'] [data-view=both]").click()
    cut = watched.evaluate("() => getComputedStyle(document.querySelector('.screen')).getPropertyValue('--cut')")
    assert (watched.locator("[data-cut]").input_value(), cut) == ("50", "50%")
    assert watched.locator("[data-player=full]").count() == 0


def test_earlier_results_are_in_sight_below_a_tall_video_and_come_back_by_a_click(watched: Any) -> None:
    watched.locator("[data-live=job]", has_text="a cat").wait_for()
    watched.set_viewport_size({"width": 1440, "height": 900})
    watched.add_style_tag(content=".shot[style] { --wide: 112 !important; --high: 176 !important }")
    film, results = boxes(watched, "[data-shot=video]", ".recent")
    assert film["height"] > 300
    assert results["y"] + results["height"] <= 900
    watched.locator(".recent .result").last.press("Enter")
    watched.locator("[data-live=job]", has_text="the sea at night").wait_for()
    watched.wait_for_function("() => document.activeElement.dataset.wish === 'show=1'")
    for control, job in (("[data-view=both]", 2), ("[data-player=forward]", 1), ("[data-place]", 2)):
        watched.locator(control).focus()
        watched.evaluate(f"() => framepack.wish({{show: '{job}'}})")
        watched.locator(f".views[data-job='{job}']").wait_for()
        assert watched.evaluate(f"() => document.activeElement.matches('{control}')"), control


def test_messages_of_the_page_leave_gradio_s_own_as_they_are(serve: Serve, visit: Visit) -> None:
    page = visit(serve())
    open_tab(page, "Presets")
    page.locator("#preset-save").click()
    page.locator(".toast-body").wait_for()
    parts = page.evaluate(
        """() => Object.fromEntries(['timer', 'toast-title', 'toast-message-text'].map(name => {
            const style = getComputedStyle(document.querySelector('.toast-body .' + name + '.error'));
            return [name, [style.padding, style.borderLeftWidth]];
        }))"""
    )
    assert set(map(tuple, parts.values())) == {("0px", "0px")}
