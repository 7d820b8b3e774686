"""How long it takes yet: on the stage, in the window's title, in the plan."""

from __future__ import annotations

from pathlib import Path

from diffusers_helper.events import Decoding, Event, Plan
from tests.jobs_support import Hold, make_picture

from .conftest import Serve, Visit
from .test_page import ask_for

BAR = "document.querySelector('[role=progressbar]')"
LEFT = "Number(document.querySelector('[data-clock=left]')?.textContent.match(/\\d+/))"


def test_the_time_goes_on_within_a_decode_and_the_plan_learns_from_it(
    serve: Serve, visit: Visit, tmp_path: Path
) -> None:
    at_plan = Hold(lambda event: isinstance(event, Plan))
    at_decode = Hold(lambda event: isinstance(event, Decoding))  # which tells that 60 s are left

    def hold(event: Event) -> None:
        at_plan(event)
        at_decode(event)

    place = serve(hold)
    page = visit(place)
    page.locator("#plan", has_text="time known after the first job").wait_for()
    ask_for(page, make_picture(tmp_path))
    page.locator("[data-live=job]", has_text="measuring how long it takes").wait_for()
    assert page.evaluate(f"() => {BAR}.hasAttribute('aria-valuenow')") is False
    assert page.title() == "running · FramePack"

    at_plan.go.set()
    page.wait_for_function(f"() => {LEFT} > 30 && {BAR}.hasAttribute('aria-valuenow')")
    done, left = page.evaluate(f"() => [Number({BAR}.ariaValueNow), {LEFT}]")
    assert at_decode.reached.is_set()
    page.wait_for_function(f"() => Number({BAR}.ariaValueNow) > {done} && {LEFT} < {left}")
    page.wait_for_function("() => /^\\d+ % · \\d+ s left · FramePack$/.test(document.title)")

    done = page.evaluate(f"() => Number({BAR}.ariaValueNow)")
    decoding = {"section": 1, "sections": 2}
    place.queue.record(1, Decoding(**decoding, seconds_left=3600.0))
    page.locator("[data-live=job]", has_text="about 59 min").wait_for()
    assert page.evaluate(f"() => Number({BAR}.ariaValueNow)") >= done, "the bar went back"
    place.queue.record(1, Decoding(**decoding, seconds_left=0.0))
    page.locator("[data-live=job]", has_text="a little longer than expected").wait_for()
    assert page.evaluate(f"() => {BAR}.ariaValueNow") == "99"

    at_decode.go.set()
    page.wait_for_function("() => document.title === 'done · FramePack'")
    page.locator("[role=progressbar]").wait_for(state="detached")
    page.locator("#plan", has_text="takes about").wait_for()
