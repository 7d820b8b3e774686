"""What is written into the form is not lost, and what is wrong with it is said where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.events import Started
from tests.jobs_support import Hold, make_picture, make_request, wait_until

from .conftest import Site, site


@pytest.fixture(scope="module")
def hold() -> Hold:
    """Lets the first job begin and holds it there."""
    return Hold(lambda event: isinstance(event, Started))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, hold: Hold) -> Iterator[Site]:
    """One page for all tests of this file; its queue rests."""
    with site(tmp_path_factory.mktemp("form") / "outputs", hold) as served:
        served.queue.pause()
        yield served
        hold.go.set()


def choose(page: Any, picture: Path) -> None:
    page.locator("#picture input[type=file]").set_input_files(picture)
    page.locator("#picture img").wait_for()


def prompt(page: Any) -> Any:
    return page.locator("#prompt textarea")


def edit(page: Any, job: int) -> None:
    page.get_by_role("tab", name="Queue").click()
    page.locator(f"[data-act=edit][data-job='{job}']").click()
    page.locator("#save").wait_for()


def test_editing_a_job_gives_the_draft_back(place: Site, visit: Callable[..., Any], tmp_path: Path) -> None:
    job = place.queue.add(make_request(make_picture(tmp_path, "red"), prompt="of the job"))
    page = visit(place)
    choose(page, make_picture(tmp_path))
    prompt(page).fill("my draft")
    drafted = page.locator("#picture img").get_attribute("src")
    for leave, becomes in (("#cancel-editing", "of the job"), ("#save", "better")):
        edit(page, job.id)
        page.locator("body.editing #editing-mode", has_text=f"Editing job {job.id}").wait_for()
        assert prompt(page).input_value() == "of the job"
        prompt(page).fill("better")
        page.locator(leave).click()
        page.locator("body:not(.editing) #start").wait_for()
        page.wait_for_function("() => document.querySelector('#prompt textarea').value === 'my draft'")
        assert page.locator("#picture img").get_attribute("src") == drafted
        assert place.queue.job(job.id).request.prompt == becomes
    place.queue.remove(job.id)


def test_changes_that_come_too_late_start_as_a_new_job(
    place: Site, hold: Hold, visit: Callable[..., Any], tmp_path: Path
) -> None:
    job = place.queue.add(make_request(make_picture(tmp_path), prompt="begins meanwhile"))
    page = visit(place)
    prompt(page).fill("my draft")
    edit(page, job.id)
    prompt(page).fill("as I wanted it")
    place.queue.unpause()
    assert hold.reached.wait(20)
    place.queue.pause()
    page.locator("#editing-mode").get_by_text("has begun meanwhile").wait_for()
    assert not page.locator("#save").is_visible()
    page.locator("#start-anew").click()
    page.wait_for_function("() => document.querySelector('#prompt textarea').value === 'my draft'")
    new = next(one for one in place.queue.jobs() if one.state == "queued")
    assert new.request.prompt == "as I wanted it"
    place.queue.remove(new.id)


def test_a_reload_keeps_the_picture_and_each_tab_its_own_words(
    place: Site, visit: Callable[..., Any], tmp_path: Path
) -> None:
    page = visit(place)
    choose(page, make_picture(tmp_path))
    prompt(page).fill("first tab")
    page.wait_for_function("() => sessionStorage.getItem('framepack.form')?.includes('first tab')")
    other = page.context.new_page()
    other.goto(place.address)
    other.locator("#picture img").wait_for()
    prompt(other).fill("second tab")
    other.wait_for_function("() => localStorage.getItem('framepack.form')?.includes('second tab')")
    page.reload()
    page.locator("#picture img").wait_for()
    assert prompt(page).input_value() == "first tab"
    page.locator("#start").click()
    wait_until(lambda: [job for job in place.queue.jobs() if job.request.prompt == "first tab"], "the job")


def test_a_refusal_stands_at_its_field_in_the_language_of_the_page(place: Site, visit: Callable[..., Any]) -> None:
    page = visit(place, locale="ja-JP", viewport={"width": 1280, "height": 500})
    jobs = len(place.queue.jobs())
    page.locator("#start", has_text="開始").click()
    page.locator("#picture.refused", has_text="開始画像を選んでください").wait_for()
    assert page.evaluate("() => document.querySelector('#picture').contains(document.activeElement)")
    page.locator("#seconds input").fill("")
    page.locator("#seconds.refused", has_text="1 から 120 までの数").wait_for()
    assert page.locator("#seconds input").get_attribute("aria-invalid") == "true"
    assert "長さ" in page.locator("#plan").inner_text()
    page.locator("#seconds input").fill("2")
    page.locator("#seconds:not(.refused)").wait_for()
    assert page.locator("[aria-invalid]").count() == 0
    page.locator("#picture.refused").wait_for()
    assert len(place.queue.jobs()) == jobs


def test_a_refusal_inside_advanced_opens_it(place: Site, visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit(place, viewport={"width": 1280, "height": 600})
    choose(page, make_picture(tmp_path))
    page.locator("#advanced > button").click()
    page.locator("#field-steps input").fill("0")
    page.locator("#field-steps.refused").wait_for()
    page.locator("#advanced > button").click()
    page.locator("#field-steps").wait_for(state="hidden")
    page.locator("#start").click()
    page.locator("#field-steps .refusal", has_text="from 1 to 100").wait_for()
    page.wait_for_function("() => document.activeElement.closest('#field-steps')")
