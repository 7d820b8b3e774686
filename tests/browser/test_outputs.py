"""Results of every kind in a real browser: it decodes them as they are, and the form asks for one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.request.output import Video
from tests.jobs_support import SIZE, ended, make_picture, make_request, wait_until
from tests.media.test_formats import MADE

from .conftest import Serve, Visit
from .test_step_caches import in_sight

SHOWN = """one => new Promise(done => {
  const look = () => done([one.videoWidth || one.naturalWidth, one.videoHeight || one.naturalHeight]);
  if (one.tagName === 'IMG' ? one.complete : one.readyState > 1) return look();
  one.addEventListener(one.tagName === 'IMG' ? 'load' : 'loadeddata', look);
  one.addEventListener('error', () => done(['it cannot be shown']));
})"""
PLAYED = {name: made[0] for name, made in MADE.items() if name not in ("mp4, 10 bit", "mp4, 4:4:4")}
"""All but those for editing, which not every browser plays."""


@pytest.mark.parametrize("name", ["mp4", *PLAYED])
def test_a_browser_shows_it_on_the_stage_and_in_the_history(
    serve: Serve, visit: Visit, tmp_path: Path, name: str
) -> None:
    place = serve()
    output = PLAYED.get(name)
    flat = {"output": "mp4"}
    if output is not None:
        assert isinstance(output, Video)
        flat = {"output": output.name, **{f"{output.name}_{key}": value for key, value in output.model_dump().items()}}
    job = place.queue.add(make_request(make_picture(tmp_path), kind="f1", seconds=1, **flat))
    assert ended(place.queue, job.id).state == "done"
    page = visit(place)
    shown = page.locator(".screen [data-shot=video] :is(video, img)")
    shown.wait_for()
    assert shown.evaluate(SHOWN) == [SIZE, SIZE]
    assert page.locator(".player").count() == (shown.evaluate("one => one.tagName") == "VIDEO")
    page.get_by_role("tab", name="History").click()
    poster = page.locator(".q-media").first
    assert poster.locator("img").first.evaluate(SHOWN) == [SIZE, SIZE]
    poster.hover()
    if flat["output"] != "frames":
        moving = poster.locator(".moving")
        moving.wait_for()
        assert moving.evaluate(SHOWN) == [SIZE, SIZE]


def choose(page: Any, output: str) -> None:
    page.locator(f"#field-output input[value={output}]").check()


def test_the_form_asks_for_a_kind_of_file_with_its_own_fields(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    place = serve()
    page = visit(place, viewport={"width": 1280, "height": 1400})
    page.locator("#picture input[type=file]").set_input_files(make_picture(tmp_path))
    page.locator("#picture img").wait_for()
    page.locator("#seconds input").fill("1")
    page.locator("#advanced > button").click()
    in_sight(page, "mp4", group="output")
    choose(page, "gif")
    in_sight(page, group="output")
    choose(page, "webm")
    in_sight(page, "webm", group="output")
    page.locator("#field-webm_codec input[value=av1]").check()
    page.locator("#field-webm_crf input").fill("99")
    page.locator("#field-webm_crf.refused").wait_for()
    page.locator("#reset-webm_crf").click()
    page.locator("#plan .plan:not(.wrong)").wait_for()
    page.locator("#start").click()
    (job,) = wait_until(lambda: place.queue.jobs(), "a job")
    assert job.request.flat()["output"] == "webm"
    assert job.request.flat()["webm_codec"] == "av1"
    assert Path(ended(place.queue, job.id).progress.video or "").suffix == ".webm"
