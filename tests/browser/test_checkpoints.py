"""Choosing another checkpoint on the page: the form follows, a job is for what its page showed, editing goes back."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from diffusers_helper.models.about import About
from diffusers_helper.models.table import Checkpoint
from tests.jobs_support import ended, make_picture, make_request
from tests.ui.serving import CHECKPOINT

from .conftest import Serve, Visit

SMALL = About(title={"en": "Small."}, default_seconds=1.2, good_up_to_seconds=1.2, examples=({"en": "it pans"},))
OTHER = Checkpoint("small", "small", ("framepack",), {}, ((32, 32),), about=SMALL)


def test_the_page_switches_between_checkpoints(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    place = serve(installed=(CHECKPOINT, OTHER))
    page = visit(place)
    expect(page.locator("#about")).to_contain_text("scripted")
    expect(page.locator("#seconds input")).to_have_value("5")
    page.locator("#picture input[type=file]").set_input_files(make_picture(tmp_path))
    page.locator("#checkpoint input").click()
    page.get_by_role("option", name="small").click()
    expect(page.locator("#about")).to_contain_text("Small.")
    expect(page.locator("#seconds input")).to_have_value("1.2")
    expect(page.locator(".examples button")).to_have_text(["it pans"])
    page.locator("#seconds input").fill("4")
    expect(page.locator("#plan")).to_contain_text("known to get worse after 1.2 s")
    page.locator("#picture img").wait_for()
    page.locator("#start").click()
    expect(page.locator("#said")).to_contain_text("Job 1")
    ended(place.queue, 1)
    assert place.executor.checkpoints == ["small"]
    page.reload()
    expect(page.locator("#checkpoint input")).to_have_value("small")


def test_editing_a_job_of_another_checkpoint_shows_that_one_and_leaving_goes_back(
    serve: Serve, visit: Visit, tmp_path: Path
) -> None:
    place = serve(installed=(CHECKPOINT, OTHER))
    place.queue.pause()
    place.queue.add(make_request(make_picture(tmp_path), kind="framepack", seconds=3.0), OTHER.source)
    page = visit(place)
    page.get_by_role("tab", name="Queue").click()
    page.locator('[data-act="edit"]').first.click()
    expect(page.locator("#checkpoint input")).to_have_value("small")
    expect(page.locator("#seconds input")).to_have_value("3")
    page.locator("#advanced > button").click()
    expect(page.locator("#field-kind label")).to_have_count(1)
    place.checkpoints.choose("small")  # on another page
    page.locator("#cancel-editing").click()
    expect(page.locator("#checkpoint input")).to_have_value("scripted")
    expect(page.locator("#field-kind label")).to_have_count(3)
    expect(page.locator("#field-kind input:checked")).to_have_value("f1")
