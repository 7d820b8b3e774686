"""What is written into the form is not lost, and what is wrong with it is said where it is wrong."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Error

from diffusers_helper.events import Started
from tests.jobs_support import Hold, make_picture, make_request, wait_until
from tests.ui.serving import serving

from .conftest import Served, Visit, whole_page


@pytest.fixture(scope="module")
def hold() -> Hold:
    """Lets the first job begin and holds it there."""
    return Hold(lambda event: isinstance(event, Started))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, hold: Hold, port: int) -> Iterator[Served]:
    """One page for all tests of this file; its queue rests."""
    with serving(tmp_path_factory.mktemp("form") / "outputs", whole_page, hold, port=port) as served:
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


def test_editing_a_job_gives_the_draft_back(place: Served, visit: Visit, tmp_path: Path) -> None:
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


def test_changes_that_come_too_late_start_as_a_new_job(place: Served, hold: Hold, visit: Visit, tmp_path: Path) -> None:
    job = place.queue.add(make_request(make_picture(tmp_path), prompt="begins meanwhile"))
    page = visit(place)
    prompt(page).fill("my draft")
    edit(page, job.id)
    prompt(page).fill("as I wanted it")
    place.queue.unpause()
    assert hold.reached.wait(60)
    place.queue.pause()
    page.locator("#editing-mode").get_by_text("has begun meanwhile").wait_for()
    assert not page.locator("#save").is_visible()
    page.locator("#start-anew").click()
    page.wait_for_function("() => document.querySelector('#prompt textarea').value === 'my draft'")
    new = next(one for one in place.queue.jobs() if one.state == "queued")
    assert new.request.prompt == "as I wanted it"
    place.queue.remove(new.id)


def test_a_reload_keeps_the_picture_and_each_tab_its_own_words(place: Served, visit: Visit, tmp_path: Path) -> None:
    page = visit(place)
    choose(page, make_picture(tmp_path))
    prompt(page).fill("first tab")
    page.wait_for_function("() => sessionStorage.getItem('framepack.form')?.includes('first tab')")
    other = page.context.new_page()
    other.goto(place.address)
    other.locator("#picture img").wait_for()
    prompt(other).fill("second tab")
    other.wait_for_function("() => localStorage.getItem('framepack.form')?.includes('second tab')")
    tell_of_a_new_start(page)
    page.wait_for_function("() => sessionStorage.getItem('framepack.form').includes('the next run')")
    page.unroute_all()
    page.reload()
    page.locator("#picture img").wait_for()
    assert prompt(page).input_value() == "first tab"
    page.locator("#start").click()
    wait_until(lambda: [job for job in place.queue.jobs() if job.request.prompt == "first tab"], "the job")


def tell_of_a_new_start(page: Any) -> None:
    """As the program answers that was started again while the page was open."""

    def answer(route: Any) -> None:
        told = route.fetch()
        new = {"json": {**told.json(), "run": "the next run"}} if told.status == 200 else {}
        route.fulfill(response=told, **new)

    page.route(re.compile("/live"), answer)
    page.evaluate("() => framepack.wish({find: 'all anew'})")


def test_nothing_can_be_entered_before_the_draft_is_back(place: Served, visit: Visit, tmp_path: Path) -> None:
    page = visit(place)
    page.locator("#seconds input").fill("7")
    prompt(page).fill("of before")
    page.wait_for_function("() => sessionStorage.getItem('framepack.form')?.includes('of before')")
    held: list[Any] = []
    page.route("**/gradio_api/run/predict*", lambda route: held.append(route))
    page.reload()
    prompt(page).wait_for()
    with pytest.raises(Error):
        prompt(page).click(timeout=500)
    page.keyboard.press("Tab")
    page.keyboard.type("typed at once")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("Control+Enter")
    assert drop(page, "#stage", make_picture(tmp_path))
    assert prompt(page).input_value() == ""
    page.unroute("**/gradio_api/run/predict*")  # which lets them go
    page.locator("body:not([inert])").wait_for()
    assert (prompt(page).input_value(), page.locator("#seconds input").input_value()) == ("of before", "7")
    assert not [url for url in asked if "queue/join" in url or "upload" in url], "a start, or a picture, came too early"
    assert page.locator(".refused, #picture img").count() == 0


def test_a_page_whose_draft_does_not_come_opens_all_the_same(place: Served, visit: Visit) -> None:
    """It waits from when Gradio is there to ask for the draft; what comes later yet changes nothing."""
    page = visit(place, own=True)
    prompt(page).fill("too late")
    page.wait_for_function("() => sessionStorage.getItem('framepack.form')?.includes('too late')")
    held: list[Any] = []
    page.route("**/gradio_api/run/predict*", lambda route: held.append(route))
    parts: list[Any] = []
    page.route("**/assets/Blocks-*.js", lambda route: parts.append(route))
    page.clock.install()
    page.reload(wait_until="commit")
    page.wait_for_function("() => window.framepack?.draft")
    page.clock.fast_forward(10_000)
    assert page.evaluate("() => document.body.inert")
    with page.expect_request(lambda request: "too late" in (request.post_data or "")):
        parts.pop().continue_()
    page.clock.fast_forward(10_000)
    prompt(page).click()
    page.keyboard.type("a new start")
    with page.expect_response(lambda response: "too late" in (response.request.post_data or "")):
        for route in held:
            route.continue_()
    page.wait_for_timeout(500)
    assert prompt(page).input_value() == "a new start"


def test_a_refusal_stands_at_its_field_in_the_language_of_the_page(place: Served, visit: Visit) -> None:
    page = visit(place, locale="ja-JP", viewport={"width": 1280, "height": 500})
    jobs = len(place.queue.jobs())
    page.get_by_role("button", name="ここに画像をドロップ").wait_for()
    page.wait_for_function("() => document.querySelector('#language input').value === '日本語'")
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
    page.locator("#language input").click()
    page.get_by_role("option", name="English").click()
    page.locator("#start", has_text="Start").wait_for()
    page.locator("#picture:not(.refused)").wait_for()


def test_a_refusal_inside_advanced_opens_it(place: Served, visit: Visit, tmp_path: Path) -> None:
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


DROP = """async ([selector, files]) => {
    const data = new DataTransfer();
    for (const [content, name, type] of files) {
        const blob = await (await fetch(`data:${type};base64,${content}`)).blob();
        data.items.add(new File([blob], name, {type}));
    }
    const drop = new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: data});
    document.querySelector(selector).dispatchEvent(drop);
    return drop.defaultPrevented;
}"""


def drop(page: Any, selector: str, *files: Path, kind: str = "image/png") -> bool:
    """Drop files onto an element; whether the browser was kept from opening them."""
    given = [[base64.b64encode(file.read_bytes()).decode(), file.name, kind] for file in files]
    return bool(page.evaluate(DROP, [selector, given]))


def test_pictures_that_are_dropped_beside_the_zone_are_taken_and_framed(
    place: Served, visit: Visit, tmp_path: Path
) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (500, 100), "teal").save(wide)
    page = visit(place)
    assert drop(page, "#stage", wide, make_picture(tmp_path, "red"))
    page.locator(".note", has_text="Left out: red.png").wait_for()
    page.locator("#framing", has_text="64 × 64 · the edges are cut off").wait_for()
    page.locator("#picture .crop").wait_for()
    frame, image = (page.locator(f"#picture {what}").bounding_box() for what in (".crop", "img"))
    assert frame["width"] == pytest.approx(frame["height"], abs=2)
    assert frame["width"] == pytest.approx(image["width"] / 5, abs=6)
    page.get_by_role("tab", name="Queue").click()
    page.set_viewport_size({"width": 1000, "height": 700})
    page.wait_for_timeout(300)
    page.get_by_role("tab", name="Generate").click()
    page.locator("#picture .crop").wait_for()
    assert page.locator("#picture .crop").bounding_box()["width"] > 20
    prompt(page).fill("by the keys")
    page.keyboard.press("Control+Enter")
    wait_until(lambda: [job for job in place.queue.jobs() if job.request.prompt == "by the keys"], "the job")


def test_what_is_no_picture_is_refused_at_the_zone_in_the_language_of_the_page(
    place: Served, visit: Visit, tmp_path: Path
) -> None:
    page = visit(place, locale="zh-CN")
    fake = tmp_path / "fake.png"
    fake.write_bytes(b"%PDF-1.4 no picture")
    choose_only(page, fake)
    page.locator("#picture .refusal", has_text="PDF 文档").wait_for()
    assert "HTTP" not in page.locator("body").inner_text()
    assert drop(page, "#picture button", fake, kind="text/plain")
    page.locator(".note", has_text="不是图片").wait_for()
    choose(page, make_picture(tmp_path))
    for selector in ("#stage", "#picture img"):
        assert drop(page, selector, fake)
        page.locator(".note", has_text="PDF 文档").wait_for()
        page.evaluate("() => document.querySelector('.note').remove()")
        assert page.locator("#picture img").is_visible()
    assert drop(page, "#stage", make_picture(tmp_path, "red"))
    page.locator("#picture img[src*='red.png']").wait_for()
    page.get_by_role("tab").nth(2).click()
    zone = page.locator("#restore-file [data-testid=upload-text]")
    zone.wait_for()
    assert "将文件拖放到此处" in zone.evaluate("it => getComputedStyle(it, '::after').content")
    assert drop(page, "#restore-file", fake)
    page.locator("#restore-file .refusal", has_text="PDF 文档").wait_for()
    for colour in ("red", "teal"):
        assert drop(page, "#restore-file", make_picture(tmp_path, colour))
        page.locator("#restore-file", has_text=colour).wait_for()
    assert page.locator(".refused").count() == 0


def choose_only(page: Any, file: Path) -> None:
    page.locator("#picture input[type=file]").set_input_files(file)


SHOWN = """jobs => jobs.join() ===
    [...document.querySelectorAll('.q-queued [data-act=duplicate]')].map(one => one.dataset.job).join()"""


def waiting(place: Served) -> list[int]:
    return [job.id for job in place.queue.jobs() if job.state == "queued"]


def test_the_focus_stays_near_when_a_job_is_moved_or_removed(place: Served, visit: Visit, tmp_path: Path) -> None:
    one, two = (place.queue.add(make_request(make_picture(tmp_path), prompt=f"{name} one")).id for name in "ab")
    page = visit(place)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("tab", name="Queue").click()
    for act, order in (("down", [two, one]), ("remove", [two])):
        page.locator(f"[data-act={act}][data-job='{one}']").focus()
        page.keyboard.press("Enter")
        wait_until(lambda order=order: waiting(place)[-len(order) :] == order, "the new order")
        page.wait_for_function(SHOWN, arg=waiting(place))
        assert page.evaluate("() => Boolean(document.activeElement.dataset.act)")
    place.queue.remove(two)


STAND_INS = """
window.told = [];
window.AudioContext = class { constructor() { told.push('sound'); this.currentTime = 0; }
    createOscillator() { return {frequency: {}, connect: other => other, start() {}, stop() {}}; }
    createGain() { return {gain: {setValueAtTime() {}, exponentialRampToValueAtTime() {}}, connect: other => other}; }
    close() {} };
window.Notification = class { constructor(title, options) { told.push(options.body);
        if (Notification.isRefused) throw new TypeError('Illegal constructor'); }
    static permission = 'default';
    static async requestPermission() { return Notification.permission = 'granted'; } };
"""


def test_a_finished_video_is_told_as_this_browser_wishes(
    place: Served, hold: Hold, visit: Visit, tmp_path: Path
) -> None:
    page = visit(place, script=STAND_INS)
    page.locator("#advanced > button").click()
    for wish in ("play a sound", "show a notification"):
        page.locator("#when-done").get_by_text(wish).click()
    page.wait_for_function("() => Notification.permission === 'granted'")
    page.reload()
    page.locator("#advanced > button").click()
    page.wait_for_function("() => document.querySelectorAll('#when-done input:checked').length === 2")
    page.evaluate("() => { Notification.permission = 'granted'; told.length = 0; }")
    for job in place.queue.jobs():
        if job.state == "queued":
            place.queue.remove(job.id)
    hold.go.set()
    place.queue.unpause()
    job = place.queue.add(make_request(make_picture(tmp_path), prompt="to be told"))
    page.wait_for_function(f"() => told.includes('Job {job.id}: done')")
    assert "sound" in page.evaluate("() => told")
    page.evaluate("() => { Notification.isRefused = true; told.length = 0; }")
    job = place.queue.add(make_request(make_picture(tmp_path), prompt="to be told once"))
    page.locator(".note", has_text="notifications").wait_for()
    with page.expect_response("**/live?*"):
        place.queue.pause()
    page.wait_for_timeout(100)
    assert page.evaluate("() => told") == ["sound", f"Job {job.id}: done"]


def test_a_double_click_starts_one_job_and_a_change_another(place: Served, visit: Visit, tmp_path: Path) -> None:
    page, before = visit(place), {job.id for job in place.queue.jobs()}

    def added() -> list[str]:
        return [job.request.prompts[0].text for job in place.queue.jobs() if job.id not in before]

    choose(page, make_picture(tmp_path))
    prompt(page).fill("clicked twice")
    page.locator("#start").dblclick()
    wait_until(added, "the job")
    prompt(page).fill("changed at once")
    page.locator("#start").click()
    wait_until(lambda: "changed at once" in added(), "the other job")
    assert added() == ["clicked twice", "changed at once"]
