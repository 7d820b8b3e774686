"""What a user does with the page, in a real browser."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.events import Preview, Started
from diffusers_helper.jobs.job import ENDED
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.media.video import probe
from tests.jobs_support import Hold, at_step, make_picture, make_request, wait_until

from .conftest import Serve, Served, Visit

PREDICTIONS = "**/gradio_api/run/predict*"
HOSTILE = "<img src=x onerror=\"document.title='taken over'\"> & <b>bold</b>"


def ask_for(page: Any, picture: Path, prompt: str = "the camera pans left") -> None:
    """Fill in picture and prompt, and start."""
    page.locator("#picture input[type=file]").set_input_files(picture)
    page.locator("#picture img").wait_for()
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#start").click()


def ended(place: Served, number: int = 1) -> None:
    wait_until(lambda: place.queue.job(number).state in ENDED, f"the end of job {number}")


def first_job(place: Served) -> None:
    wait_until(lambda: place.queue.jobs(), "a job in the queue")


def text_of(page: Any, fragment: str) -> str:
    return str(page.locator(f"[data-live={fragment}]").first.inner_text())


def video_plays(page: Any) -> bool:
    """The video that is shown has been read by the browser and has a length."""
    return bool(
        page.evaluate("() => [...document.querySelectorAll('[data-live=video] video')].some(v => v.duration > 0)")
    )


def test_from_a_picture_to_the_finished_video(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    hold = Hold(lambda event: isinstance(event, Preview) and event.section == 2)
    place = serve(hold)
    page = visit(place)
    ask_for(page, make_picture(tmp_path), "a cat walks")
    assert hold.reached.wait(60)
    page.locator("[data-live=preview] img").wait_for()
    page.locator("[data-view=video]").click()
    page.locator("[data-live=video] video").wait_for()
    assert "a cat walks" in text_of(page, "job")
    hold.go.set()
    ended(place)
    page.locator("[data-live=job]", has_text="done").wait_for()
    page.wait_for_function("() => document.querySelector('[data-live=video] video')?.duration > 0")
    assert probe(place.queue.result(1)).frames == place.queue.job(1).progress.frames


def test_a_reload_in_the_middle_loses_nothing(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    hold = Hold(at_step(2, 1))
    place = serve(hold)
    page = visit(place)
    ask_for(page, make_picture(tmp_path), "a long walk")
    assert hold.reached.wait(60)
    page.reload()
    page.locator("[data-live=job]", has_text="a long walk").wait_for()
    assert place.queue.job(1).state == "running"
    page.wait_for_function("() => document.querySelector('#prompt textarea')?.value === 'a long walk'")
    hold.go.set()
    page.locator("[data-live=job]", has_text="done").wait_for()


def test_two_pages_show_the_same_job(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    hold = Hold(at_step(1, 2))
    place = serve(hold)
    one, two = visit(place), visit(place)
    ask_for(one, make_picture(tmp_path), "seen by two")
    assert hold.reached.wait(60)
    for page in (one, two):
        page.locator("[data-live=job]", has_text="seen by two").wait_for()
    two.locator("[data-act=stop][data-value=now]").first.click()
    hold.go.set()
    for page in (one, two):
        page.locator("[data-live=job]", has_text="cancelled").wait_for()


def test_a_network_that_is_gone_for_half_a_minute(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    hold = Hold(at_step(2, 1))
    place = serve(hold)
    page = visit(place, own=True)
    ask_for(page, make_picture(tmp_path), "through a tunnel")
    assert hold.reached.wait(60)
    page.locator("[data-act=stop]").first.wait_for()
    page.clock.install()
    page.context.set_offline(True)
    page.locator("[data-live-lost]", has_text="onnection").wait_for()
    page.evaluate("() => { window.isStillTheSame = true; }")
    for button in ("#start", "[data-act=stop]"):
        page.locator(button).first.click()
    page.locator("#seconds input").fill("")
    page.locator("#prompt textarea").press_sequentially(" of words", delay=100)
    hold.go.set()
    ended(place)
    page.clock.run_for(30_000)
    page.locator("#prompt textarea").press_sequentially(" that stay")
    page.context.set_offline(False)
    page.locator("[data-live=job]", has_text="done").wait_for()
    page.wait_for_function("() => document.querySelector('[data-live-lost]').textContent.trim() === ''")
    page.locator("#seconds.refused").wait_for()
    assert page.locator("#prompt textarea").input_value() == "through a tunnel of words that stay"
    assert "of words that stay" in page.evaluate("() => sessionStorage.getItem('framepack.form')")
    assert page.locator(".toast-body").count() == 0
    assert page.evaluate("() => window.isStillTheSame")
    assert len(place.queue.jobs()) == 1
    a_command_that_gets_nowhere_is_said(page)


def a_command_that_gets_nowhere_is_said(page: Any) -> None:
    """And Gradio goes on."""
    page.route("**/gradio_api/queue/join*", lambda route: route.abort())
    page.locator("#start").click()
    page.locator(".toast-body", has_text="did not get through").wait_for()
    page.unroute("**/gradio_api/queue/join*")
    page.locator("#seconds input").fill("2")
    page.locator("#seconds:not(.refused)").wait_for()


@pytest.mark.parametrize(("keep", "sections", "video"), [("now", 1, True), ("section", 2, True), ("nothing", 0, False)])
def test_each_way_to_stop(keep: str, sections: int, video: bool, serve: Serve, visit: Visit, tmp_path: Path) -> None:
    hold = Hold(at_step(2, 1))
    place = serve(hold)
    page = visit(place)
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#seconds input").fill("3.6")
    ask_for(page, make_picture(tmp_path))
    assert hold.reached.wait(60)
    page.locator(f"[data-act=stop][data-value={keep}]").first.click()
    wait_until(lambda: place.queue.job(1).stop, "the stop")
    hold.go.set()
    page.locator("[data-live=job]", has_text="cancelled").wait_for()
    job = place.queue.job(1)
    assert (job.progress.sections_done, job.progress.video is not None) == (sections, video)
    assert job.can_go_on == video


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


@contextmanager
def busy(queue: JobQueue, command: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The first call of ``command`` is not done before the block ends."""
    known, go = getattr(queue, command), threading.Event()

    def waiting(*given: Any) -> None:
        assert go.wait(60)
        known(*given)

    monkeypatch.setattr(queue, command, waiting)
    yield
    go.set()


def test_a_queue_of_three_put_in_order_and_changed(
    serve: Serve, visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = serve()
    place.queue.pause()
    picture = make_picture(tmp_path)
    for prompt in ("first", "second", "third"):
        place.queue.add(make_request(picture, prompt=prompt))
    page = visit(place)
    open_tab(page, "Queue")
    with busy(place.queue, "move", monkeypatch):
        page.locator("[data-act=up][data-job='3']").click()
        page.locator("[data-act=next][data-job='2']").click()
    wait_until(lambda: prompts(place) == ["second", "first", "third"], "both clicks, also the second")
    page.locator("[data-act=edit][data-job='1']").click()
    page.locator("#save").wait_for()
    assert page.locator("#prompt textarea").input_value() == "first"
    page.locator("#prompt textarea").fill("first, but better")
    page.locator("#save").click()
    wait_until(lambda: "first, but better" in prompts(place), "the change")
    page.locator("#start").wait_for()
    open_tab(page, "Queue")
    page.locator("[data-act=unpause]").click()
    for number in (1, 2, 3):
        ended(place, number)
    assert [request.prompt for request, _ in place.executor.submitted] == ["second", "first, but better", "third"]


def prompts(place: Served) -> list[str]:
    return [job.request.prompt for job in place.queue.jobs()]


def finished_video(place: Served, tmp_path: Path, **fields: Any) -> Path:
    """A video that the page has made."""
    place.queue.add(make_request(make_picture(tmp_path), **fields))
    ended(place)
    return place.queue.result(1)


def drop(page: Any, selector: str, file: Path, kind: str) -> None:
    """Drop a file onto an element, as a hand with a mouse does."""
    page.locator(selector).wait_for()
    data = page.evaluate_handle(
        """async ([content, name, type]) => {
            const blob = await (await fetch(`data:${type};base64,${content}`)).blob();
            const data = new DataTransfer();
            data.items.add(new File([blob], name, {type}));
            return data;
        }""",
        [base64.b64encode(file.read_bytes()).decode(), file.name, kind],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(selector, event, {"dataTransfer": data})


def test_settings_come_back_from_a_dropped_video(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    place = serve()
    video = finished_video(place, tmp_path, prompt=HOSTILE, seed=2**62 + 1, steps=7)
    page = visit(place)
    open_tab(page, "Restore")
    drop(page, "#restore-file button", video, "video/mp4")
    page.locator("#restore-found [data-act=seed]").wait_for()
    assert "onerror" in page.locator("#restore-found").inner_text()
    page.locator("#restore-found [data-act=some]").click()
    page.locator("#prompt textarea").wait_for()
    page.wait_for_function("() => document.querySelector('#prompt textarea').value.includes('onerror')")
    assert page.locator("#prompt textarea").input_value() == HOSTILE
    page.locator("#advanced button").first.click()
    assert page.locator("#field-steps input").input_value() == "7"
    assert page.locator("#field-seed input, #field-seed textarea").first.input_value() == str(2**62 + 1)
    assert page.title() == "FramePack"


def test_a_preset_is_kept_and_loaded(serve: Serve, visit: Visit) -> None:
    place = serve()
    page = visit(place)
    page.locator("#advanced button").first.click()
    page.locator("#field-steps input").fill("9")
    open_tab(page, "Presets")
    page.locator("#preset-name input, #preset-name textarea").first.fill("夜の散歩 / night")
    page.locator("#preset-save").click()
    page.locator("#presets-list", has_text="夜の散歩 / night").wait_for()
    page.reload()
    page.locator("#start").wait_for()
    page.locator("#advanced button").first.click()
    page.locator("#field-steps input").fill("30")
    open_tab(page, "Presets")
    page.locator("#presets-list [data-act=load]").click()
    page.locator("#field-steps input").wait_for()
    page.wait_for_function("() => document.querySelector('#field-steps input').value === '9'")


def test_languages_are_switched_live_and_remembered(serve: Serve, visit: Visit) -> None:
    place = serve()
    page = visit(place)
    page.locator("#prompt textarea").fill("stays as it is")
    for name, start in (("日本語", "開始"), ("简体中文", "开始")):
        speak(page, name)
        page.locator("#start", has_text=start).wait_for()
        assert page.locator("#prompt textarea").input_value() == "stays as it is"
    page.reload()
    page.locator("#start", has_text="开始").wait_for()
    page.locator("[data-live=job]", has_text="还没有").wait_for()


def test_a_language_chosen_while_another_is_on_its_way_is_the_one_that_stays(serve: Serve, visit: Visit) -> None:
    page = visit(serve())
    page.route(PREDICTIONS, lambda route: None)
    with page.expect_request(PREDICTIONS):
        speak(page, "日本語")
    speak(page, "简体中文")
    page.unroute(PREDICTIONS)  # which lets them go
    page.locator("#start", has_text="开始").wait_for()
    assert page.locator("#language input").input_value() == "简体中文"


def speak(page: Any, name: str) -> None:
    page.locator("#language input").click()
    page.get_by_role("option", name=name).click()


def test_a_first_visit_speaks_the_browsers_language(serve: Serve, visit: Visit) -> None:
    page = visit(serve(), locale="ja-JP")
    page.locator("#start", has_text="開始").wait_for()


def test_a_wrong_password_shows_nothing(serve: Serve, visit: Visit) -> None:
    place = serve(auth="maker:right horse")
    page = visit(place, ready="input[type=password]")
    sign_in(page, "wrong")
    page.get_by_text("Incorrect Credentials").wait_for()
    assert page.locator("#start").count() == 0
    for path in ("live", "config", "media/1/video.mp4"):
        assert page.request.get(f"{place.address}/{path}").status == 401
    sign_in(page, "right horse")
    page.locator("#start").wait_for()
    page.locator("[data-live=job] *").first.wait_for()


def sign_in(page: Any, password: str) -> None:
    page.locator("input").first.fill("maker")
    page.locator("input[type=password]").fill(password)
    page.get_by_role("button").first.click()


def test_a_hostile_prompt_is_shown_as_text(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    place = serve()
    page = visit(place)
    ask_for(page, make_picture(tmp_path), HOSTILE)
    first_job(place)
    page.locator("[data-live=job]", has_text="done").wait_for()
    assert HOSTILE in text_of(page, "job")
    open_tab(page, "Queue")
    page.locator("[data-live=history] [data-act=use]").first.wait_for()
    assert HOSTILE in text_of(page, "history")
    assert page.locator("[data-live] img[onerror]").count() == 0
    assert page.title() == "done · FramePack"


def test_the_page_is_worked_with_the_keyboard(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    hold = Hold(at_step(1, 2))
    place = serve(hold)
    page = visit(place)
    page.locator("#picture input[type=file]").set_input_files(make_picture(tmp_path))
    page.locator("#picture img").wait_for()
    page.locator("#prompt textarea").focus()
    page.keyboard.type("by hand")
    tab_to(page, "#start")
    page.keyboard.press("Enter")
    assert hold.reached.wait(60)
    page.locator("[data-act=stop][data-value=now]").first.wait_for()
    tab_to(page, "[data-act=stop][data-value=now]")
    page.keyboard.press("Space")
    hold.go.set()
    ended(place)
    assert place.queue.job(1).state == "cancelled"


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until the element has the focus, and look whether that can be seen."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            shown = page.evaluate("() => getComputedStyle(document.activeElement)")
            assert shown["outlineStyle"] != "none" or shown["boxShadow"] != "none"
            return
    raise AssertionError(f"Tab never reaches {selector}")


def test_a_phone_shows_all_of_the_page(serve: Serve, visit: Visit) -> None:
    page = visit(serve(), viewport={"width": 390, "height": 844})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert page.locator("#start").bounding_box()["width"] > 200


def test_an_interrupted_job_goes_on_from_the_page(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    before = JobQueue(tmp_path / "outputs")
    folder = before.output_dir / "day" / "broken off"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text("{}")
    before.add(make_request(make_picture(tmp_path)))
    before.claim()
    before.record(1, Started(folder=str(folder), seed=5, sections_done=1))
    before.close()
    place = serve()
    page = visit(place)
    page.locator("[data-live=job]", has_text="interrupted").wait_for()
    page.locator("[data-act=go_on]").first.click()
    page.locator("[data-live=job]", has_text="done").wait_for()
    assert place.executor.submitted[-1][1] == folder
