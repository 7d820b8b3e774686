"""One picture in a real browser: slots, masks, the time ruler and its modes; what is asked for is what was shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from diffusers_helper.jobs.job import Job
from diffusers_helper.request import Picture
from diffusers_helper.sections.kinds import OneFrame
from diffusers_helper.sections.modes import MODES
from tests.jobs_support import make_picture, wait_until

from .conftest import Serve, Served, Visit

PLACES = "#field-one_frame_control_index :is(input, textarea)"
TARGET = "#field-one_frame_target_index input"


def one_frame(page: Any) -> None:
    page.locator("#field-kind label", has_text="One frame").click()
    page.locator("[data-slot='0']").wait_for()


def mode(page: Any, words: str) -> None:
    page.locator("#one-frame-mode label", has_text=words).click()


def choose(page: Any, slot: int, picture: Path, act: str = "choose") -> None:
    with page.expect_file_chooser() as chooser:
        page.locator(f"[data-slot='{slot}'] [data-do={act}]").click()
    chooser.value.set_files(picture)
    page.locator(f"[data-slot='{slot}'] img").first.wait_for()


def drag(page: Any, pin: str, index: int) -> None:
    """From where it is to an index, by the mouse."""
    page.evaluate("() => document.querySelector('[data-ruler]').scrollIntoView({block: 'center'})")
    lane, box = page.locator(".ruler-axis").bounding_box(), page.locator(f"[data-pin='{pin}']").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(lane["x"] + lane["width"] * index / 30, box["y"] + 5, steps=4)
    page.mouse.up()


def paint(page: Any, slot: int) -> None:
    """A stroke of black from the left edge to the right one, through the middle."""
    page.locator(f"[data-slot='{slot}'] [data-do=paint_mask]").click()
    view = page.locator(".mask-view")
    box = view.bounding_box()
    page.mouse.move(box["x"] + 1, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2, steps=6)
    page.mouse.up()
    page.locator(".mask-ends .q-primary").click()
    page.locator(f"[data-slot='{slot}'] .slot-used").wait_for()


def started(page: Any, place: Served, count: int = 1) -> Job:
    """Press Start and wait for so many jobs; returns the last one."""
    before = len(place.queue.jobs())
    page.wait_for_timeout(1100)  # a second click within a second is a double click
    page.locator("#start").click()
    wait_until(lambda: len(place.queue.jobs()) == before + count, "the jobs")
    return max(place.queue.jobs(), key=lambda job: job.id)


def test_a_picture_is_asked_for_with_a_painted_mask_and_where_the_ruler_has_it(
    serve: Serve, visit: Visit, tmp_path: Path
) -> None:
    place = serve()
    page = visit(place)
    page.locator("#picture input[type=file]").set_input_files(make_picture(tmp_path))
    page.locator("#picture img").wait_for()
    one_frame(page)
    page.locator("[data-slot='0'] img").wait_for()
    for only_of_videos in ("#picture", "#seconds"):
        expect(page.locator(only_of_videos)).to_be_hidden()
    mode(page, "Kisekaeichi")
    page.locator("#plan", has_text="1 picture").wait_for()
    page.locator("#start").click()
    page.locator("#pictures .refusal", has_text="Choose picture 2 first").wait_for()
    choose(page, 1, make_picture(tmp_path, "gold"))
    page.locator("#pictures .refusal").wait_for(state="detached")
    paint(page, 1)
    lay_out(page)
    page.wait_for_function("() => sessionStorage.getItem('framepack.form')?.includes('0;11')")
    page.reload()
    page.locator("[data-slot='1'] .slot-used").wait_for()
    request = started(page, place).request
    asked = {"target_index": 6, "control_index": "0;11", "post": True}
    assert request.kind == MODES["kisekaeichi"].kind.model_copy(update=asked)
    assert request.output.name == "png"
    check_pictures(*request.pictures)


def lay_out(page: Any) -> None:
    """On the ruler: by the mouse, by the keyboard, and by a click; and so the mode is none of the known."""
    drag(page, "target", 6)
    expect(page.locator(TARGET)).to_have_value("6")
    page.locator("[data-pin='1']").press("ArrowRight")
    expect(page.locator(PLACES)).to_have_value("0;11")
    page.locator("[data-band=post]").click()
    expect(page.locator("#one-frame-mode label.selected")).to_have_text("Custom")
    expect(page.locator("#field-one_frame_post input")).to_be_checked()


def check_pictures(first: Picture, second: Picture) -> None:
    """The colours of both, and of the second's mask what was painted."""
    assert [Image.open(each.path).getpixel((5, 5)) for each in (first, second)] == [(0, 128, 128), (255, 215, 0)]
    assert first.mask is None
    with Image.open(str(second.mask)) as mask:
        assert (mask.size, mask.convert("L").getextrema()) == ((64, 64), (0, 255))
        shades = np.asarray(mask.convert("L"))
    assert (shades[32, 4:60].max(), shades[:20].min(), shades[44:].min()) == (0, 255, 255)


def test_pictures_change_places_by_hand_and_keyboard_and_several_are_asked_for_at_once(
    serve: Serve, visit: Visit, tmp_path: Path
) -> None:
    place = serve()
    page = visit(place)
    one_frame(page)
    choose(page, 0, make_picture(tmp_path))
    page.locator("[data-add]").click()
    expect(page.locator(PLACES)).to_have_value("0;10")
    choose(page, 1, make_picture(tmp_path, "gold"))
    choose(page, 1, make_picture(tmp_path, "white"), "mask_file")
    page.locator("[data-slot='1'] .slot-used").wait_for()
    there_and_back(page)
    take_away(page)
    page.locator("#sweep [role=combobox]").first.click()
    page.locator("[role=option]", has_text="Target position").click()
    page.locator("#sweep :is(input:not([role]), textarea)").first.fill("1..3")
    page.locator("#plan", has_text="3 pictures").wait_for()
    last = started(page, place, 3)
    jobs = sorted(place.queue.jobs(), key=lambda job: job.id)
    assert [job.request.kind for job in jobs] == [OneFrame(target_index=index) for index in (1, 2, 3)]
    assert {job.batch for job in jobs} == {jobs[0].id}
    assert last.request.pictures[0].mask is None
    back_to_a_video(page)
    assert started(page, place).request.pictures[0].role == "start"


def there_and_back(page: Any) -> None:
    """The second picture with its mask: to the front by a key, and back by the mouse."""
    page.locator("[data-slot='1'] [data-do=back]").press("Enter")
    page.locator("[data-slot='0'] .slot-used").wait_for()
    page.locator("[data-slot='0'] .slot-head b").drag_to(page.locator("[data-slot='1']"))
    page.locator("[data-slot='1'] .slot-used").wait_for()


def take_away(page: Any) -> None:
    """The second picture's mask, then the picture, then its place, of which the time was changed."""
    page.locator("[data-slot='1'] [data-do=mask_none]").click()
    page.locator("[data-slot='1'] input[type=number]").fill("13")
    expect(page.locator(PLACES)).to_have_value("0;13")
    page.locator("[data-slot='1'] [data-do=clear_slot]").click()
    page.locator("[data-slot='1'] [data-do=clear_slot]").click()
    expect(page.locator("[data-slot]")).to_have_count(1)
    expect(page.locator(PLACES)).to_have_value("0")


def back_to_a_video(page: Any) -> None:
    """The first picture is the start picture then."""
    page.locator("#field-kind label", has_text="framepack").click()
    page.locator("#picture img").wait_for()
    values = json.loads(page.evaluate("() => sessionStorage.getItem('framepack.form')"))["values"]
    assert values["picture"] == json.loads(values["pictures"])[0]["picture"]
