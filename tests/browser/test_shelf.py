"""The shelf in a real browser: LoRAs that come meanwhile, are chosen and weighed, and come back from a video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from diffusers_helper.request import Lora
from tests.jobs_support import ended, make_picture, wait_until
from tests.lora import building
from tests.lora.building import Built
from tests.ui.shelves import put_on_shelf, shelf_of, small_checkpoint

from .conftest import Serve, Served, Visit
from .test_page import open_tab

STYLE, HOSTILE = "people/style.safetensors", "<img src=x onerror=framepack.hacked=1> 🦊.safetensors"


def served(serve: Serve, folder: Path) -> Served:
    return serve(installed=(small_checkpoint(folder),))


def unfold(page: Any) -> None:
    page.locator("#lora-shelf > button").click()
    page.locator("#lora-list").wait_for()


def weight(page: Any, at: int = 0) -> Any:
    return page.locator("#loras input[data-field=weight][type=number]").nth(at)


def names(page: Any) -> list[str]:
    return list(page.locator("#lora-list .l-name").all_inner_texts())


def chosen(page: Any) -> list[str]:
    return list(page.locator("#loras bdi").all_inner_texts())


def start(page: Any, place: Served, folder: Path) -> Any:
    """Press Start; returns the job."""
    before = len(place.queue.jobs())
    page.locator("#picture input[type=file]").set_input_files(make_picture(folder))
    page.locator("#picture img").wait_for()
    page.locator("#start").click()
    wait_until(lambda: len(place.queue.jobs()) > before, "the job")
    return max(place.queue.jobs(), key=lambda job: job.id)


def put_two(folder: Path) -> tuple[str, str]:
    """One that says what goes with it, with a picture; and one whose name is HTML. Returns their contents."""
    told = {"recommended_steps": "30", "modelspec.trigger_phrase": "wtrclr"}
    content = put_on_shelf(folder, STYLE, Built(building.peft().tensors, metadata=told))
    Image.new("RGB", (64, 64), "teal").save(shelf_of(folder) / "people" / "style.png")
    return content, put_on_shelf(folder, HOSTILE, building.loha())


def choose_two(page: Any) -> None:
    """The first by words that it says of itself, the second by its name."""
    find = page.locator("#lora-find input, #lora-find textarea").first
    find.fill("wtrclr")
    page.wait_for_function("() => document.querySelectorAll('#lora-list .l-row').length === 1")
    page.locator("#lora-list input").check()
    find.fill("")
    page.locator("#lora-list .l-row").nth(1).wait_for()
    page.locator("#lora-list label", has_text=HOSTILE).click()
    assert chosen(page) == [STYLE, HOSTILE]


def take_what_goes_with_it(page: Any) -> None:
    page.locator("[data-act=lora_settings]").click()
    page.locator("[data-act=lora_words]").click()
    page.wait_for_function("() => document.querySelector('#prompt textarea').value === 'wtrclr'")
    page.wait_for_function("() => !document.querySelector('#lora-hints .l-hint')")


def weigh(page: Any) -> None:
    """A weight from the list's usual range, one that is refused, one below 0; and one at the end."""
    weight(page).fill("0.35")
    weight(page, 1).fill("12")
    page.locator("#loras .refusal", has_text="give a weight from -10 to 10").wait_for()
    weight(page, 1).fill("-2")
    page.locator("#loras .refusal").wait_for(state="detached")
    at_end(page).fill("0.85")


def at_end(page: Any) -> Any:
    return page.locator("#loras input[data-field=weight_at_end]").first


def test_files_appear_are_chosen_weighed_kept_over_a_reload_and_sent(
    serve: Serve, visit: Visit, tmp_path: Path
) -> None:
    place = served(serve, tmp_path)
    page = visit(place)
    unfold(page)
    page.locator("#lora-list", has_text=str(shelf_of(tmp_path))).wait_for()
    content, other = put_two(tmp_path)
    page.locator("#lora-list .l-row").nth(1).wait_for()
    assert sorted(names(page)) == sorted([STYLE, HOSTILE])
    page.wait_for_function("() => document.querySelector('#lora-list img')?.naturalWidth === 64")
    choose_two(page)
    assert page.evaluate("() => framepack.hacked") is None
    weigh(page)
    take_what_goes_with_it(page)
    page.wait_for_function("() => sessionStorage.getItem('framepack.form')?.includes('0.85')")
    page.reload()
    weight(page, 1).wait_for()
    kept = [weight(page).input_value(), at_end(page).input_value(), weight(page, 1).input_value()]
    assert (chosen(page), kept) == ([STYLE, HOSTILE], ["0.35", "0.85", "-2"])
    request = start(page, place, tmp_path).request
    style = Lora(name=STYLE, sha256=content, weight=0.35, weight_at_end=0.85)
    assert request.loras == (style, Lora(name=HOSTILE, sha256=other, weight=-2))
    assert (request.prompt, request.steps) == ("wtrclr", 30)
    page.locator("#loras li", has_text="🦊").get_by_role("button").click()
    page.wait_for_function("() => document.querySelectorAll('#loras li').length === 1")
    unfold(page)
    page.locator("#lora-list .l-row :checked").wait_for()
    assert page.locator("#lora-list .l-row :checked").count() == 1
    (shelf_of(tmp_path) / STYLE).unlink()
    page.locator("#loras .refusal", has_text="any more").wait_for()


def test_a_video_and_a_job_bring_their_loras_back(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    place = served(serve, tmp_path)
    content = put_on_shelf(tmp_path, STYLE, building.peft())
    page = visit(place)
    unfold(page)
    page.locator("#lora-list input").check()
    weight(page).fill("0.35")
    page.wait_for_function("() => sessionStorage.getItem('framepack.form')?.includes('0.35')")
    job = ended(place.queue, start(page, place, tmp_path).id)
    (shelf_of(tmp_path) / STYLE).rename(shelf_of(tmp_path) / "renamed.safetensors")
    page.locator("#loras li").get_by_role("button").click()
    page.wait_for_function("() => !document.querySelector('#loras li')")
    open_tab(page, "Restore")
    page.locator("#restore-file input[type=file]").set_input_files(str(job.progress.video))
    page.locator("#restore-found", has_text=f"{STYLE} × 0.35").wait_for()
    page.locator("#restore-found [data-act=some]").click()
    weight(page).wait_for()
    assert weight(page).input_value() == "0.35"
    page.locator("#lora-hints", has_text="was found as renamed.safetensors").wait_for()
    page.locator("#lora-list :checked").wait_for()
    again = start(page, place, tmp_path).request
    assert again.loras == (Lora(name="renamed.safetensors", sha256=content, weight=0.35),)
    assert again.seed == job.request.seed
    (shelf_of(tmp_path) / "renamed.safetensors").unlink()
    page.locator("#loras li").get_by_role("button").click()
    open_tab(page, "Queue")
    page.locator(f"#history [data-act=use][data-job='{job.id}']").click()
    weight(page).wait_for()
    page.locator("#loras .refusal", has_text=f"No LoRA with the content of {STYLE}").wait_for()
    values = json.loads(page.evaluate("() => sessionStorage.getItem('framepack.form')"))["values"]
    assert json.loads(values["loras"]) == [{"name": STYLE, "sha256": content, "weight": 0.35}]
