"""Step caches in a real browser: chosen, calibrated, used, and compared with computing every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.events import Calibrated, Event
from diffusers_helper.jobs.job import ENDED
from diffusers_helper.models.table import PARTS, Checkpoint
from tests.jobs_support import make_picture, wait_until
from tests.ui.serving import CHECKPOINT, serving

from .conftest import Served, Visit, whole_page

CACHES = ("teacache", "seacache", "first_block")
BOTH = "[...document.querySelectorAll('.screen video')]"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """One of which nothing has been measured, and which keeps what is."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return replace(CHECKPOINT, folders=dict.fromkeys(PARTS, folder), calibrations=tmp_path / "calibrations")


@pytest.fixture
def place(tmp_path: Path, checkpoint: Checkpoint, port: int) -> Iterator[Served]:
    """A page whose jobs keep what they measure, as an engine does."""

    def keep(event: Event) -> None:
        if isinstance(event, Calibrated):
            checkpoint.keep_ratios(event.mean)

    with serving(tmp_path / "outputs", whole_page, keep, installed=(checkpoint,), port=port) as served:
        yield served


def in_sight(page: Any, *options: str, group: str = "sampling") -> None:
    page.wait_for_function(
        "([group, shown]) => JSON.stringify([...document.querySelectorAll(`#group-${group} .of-option`)]"
        ".filter(one => one.offsetHeight).map(one => one.id)) === JSON.stringify(shown)",
        arg=[group, [f"of-{option}" for option in options]],
    )


def shows(page: Any, field: str, value: str) -> None:
    page.wait_for_function(
        "([field, value]) => document.querySelector(`#field-${field} input`).value === value", arg=[field, value]
    )


def choose(page: Any, cache: str) -> None:
    page.locator(f"#field-step_cache input[value={cache}]").check()


@pytest.fixture
def page(place: Served, visit: Visit, tmp_path: Path) -> Any:
    """The page with a picture, a short length, and Advanced open."""
    page = visit(place, viewport={"width": 1280, "height": 1400}, permissions=["clipboard-read", "clipboard-write"])
    page.locator("#picture input[type=file]").set_input_files(make_picture(tmp_path))
    page.locator("#picture img").wait_for()
    page.locator("#seconds input").fill("1")
    page.locator("#advanced > button").click()
    page.locator("#field-step_cache").wait_for()
    return page


def test_only_the_chosen_step_cache_s_fields_are_in_sight(page: Any) -> None:
    in_sight(page, "auto")
    for cache in CACHES:
        choose(page, cache)
        in_sight(page, cache)
    page.locator("#field-first_block_threshold input").fill("7")
    page.locator("#field-first_block_threshold.refused").wait_for()
    choose(page, "magcache")
    in_sight(page, "magcache")
    page.locator("#plan .plan:not(.wrong)").wait_for()
    page.locator("#magcache-pair input[value='0.15 / 4']").check()
    shows(page, "magcache_threshold", "0.15")
    shows(page, "magcache_k", "4")
    page.locator("#reset-magcache_k").click()
    shows(page, "magcache_k", "6")
    page.locator("#reset-magcache_k").wait_for(state="hidden")
    assert page.locator("#magcache-pair input:checked").count() == 0, "0.15 with 6 is no published pair"
    page.locator("#language input").click()
    page.get_by_role("option", name="日本語").click()
    page.locator("#start", has_text="開始").wait_for()
    in_sight(page, "magcache")
    page.locator("#speed", has_text="ステップ").wait_for()  # what the level sets, said anew by the server
    page.locator("#speed input[value=exact]").check()
    in_sight(page)
    page.reload()
    page.locator("body:not([inert]) #start").wait_for()
    page.locator("#advanced > button").click()
    page.locator("#field-step_cache input[value=off]:checked").wait_for()
    in_sight(page)


def ended(place: Served, count: int) -> None:
    wait_until(lambda: len([job for job in place.queue.jobs() if job.state in ENDED]) == count, f"{count} jobs")


def test_magcache_is_calibrated_used_and_compared(page: Any, place: Served) -> None:
    choose(page, "magcache")
    page.locator("#start").click()
    page.locator("#field-step_cache .refusal", has_text="calibrat").wait_for()
    page.locator("#field-magcache_calibration input").check()
    page.locator("#field-magcache_mag_ratios textarea").fill("1, 2")
    page.locator("#start").click()
    ended(place, 1)
    page.locator(".calibration svg[role=img]").wait_for()
    page.locator(".calibration [data-copy]").click()
    page.locator(".calibration [data-copy]", has_text="Copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()").startswith("1.00000, 0.99000, 0.98000, ")
    page.locator("[data-act=use_ratios]").click()
    page.locator("#field-magcache_calibration input:not(:checked)").wait_for()
    assert page.locator("#field-magcache_mag_ratios textarea").input_value() == ""
    page.locator("#compare").click()
    ended(place, 3)
    one, other = place.queue.job(2), place.queue.job(3)
    assert (one.request.step_cache.name, other.request.step_cache) == ("magcache", None)  # type: ignore[union-attr]
    page.locator(".pair", has_text="PSNR").wait_for()
    assert "8 of 25 steps reused" in page.locator(".pair").inner_text()
    both_move_as_one(page)


def both_move_as_one(page: Any) -> None:
    page.wait_for_function(f"() => {BOTH}.length === 2 && {BOTH}.every(video => video.readyState > 2)")
    page.locator("[data-place]").fill("9")
    page.wait_for_function(
        f"() => {BOTH}.every(video => video.paused && Math.abs(video.currentTime - 8.5 / 30) < .001)"
    )
    page.locator("[data-player=forward]").click()
    page.wait_for_function(f"() => {BOTH}.every(video => Math.abs(video.currentTime - 9.5 / 30) < .001)")
    page.locator("[data-player=play]").click()
    page.wait_for_function(f"() => {BOTH}.every(video => !video.paused)")
    left, right = (page.locator(f"[data-shot={shot}]").bounding_box() for shot in ("video", "twin"))
    assert left["y"] == right["y"]
    assert left["width"] == right["width"]
    page.locator("[data-view=video]").click()
    page.locator("[data-shot=twin]").wait_for(state="hidden")
    page.wait_for_function(f"() => {BOTH}[1].paused")
