"""The tab that trains, the whole way: data, captions, a goal, a training that is stopped and goes on, and its LoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from diffusers_helper.events import Event, Learning
from diffusers_helper.training.order import TrainingOrder
from tests.jobs_support import Hold, ended
from tests.ui.serving import make_video

from .conftest import Serve, Visit

TRAINING = "#train-stage"


def at(step: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Learning) and event.step == step


def entry(page: Any, name: str) -> Any:
    return page.locator(f"#train-{name} :is(input, textarea)").first


def test_from_a_folder_to_a_lora_in_the_form(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    hold = Hold(at(30))
    place = serve(hold, models_dir=str(tmp_path / "models"))
    make_video(tmp_path / "a.mp4")
    page = visit(place)
    open_tab(page)
    write_caption(page, tmp_path)
    start_what_is_refused_first(page)
    assert hold.reached.wait(30)
    look_at_the_training(page)
    page.reload()
    open_tab(page)
    look_at_the_training(page)

    page.locator(f"{TRAINING} [data-value=now]").click()
    expect(page.locator(TRAINING)).to_contain_text("Stopping after this step")
    hold.go.set()
    page.locator(f"{TRAINING} [data-act=go_on]").click()
    expect(page.locator(TRAINING)).to_contain_text("60 of 60 steps")
    assert ended(place.queue, 1).state == "done"

    page.locator(f"{TRAINING} [data-act=use_lora]").click()
    expect(page.locator("[data-chosen] bdi")).to_have_text("my style.safetensors")
    expect(page.locator("#start")).to_be_visible()
    (order, _), _ = place.executor.submitted
    assert isinstance(order, TrainingOrder)
    assert (order.steps, order.discrete_flow_shift, order.network_dim) == (60, 6, 8)


def open_tab(page: Any) -> None:
    page.get_by_role("tab", name="Train", exact=True).click()


def write_caption(page: Any, folder: Path) -> None:
    entry(page, "data").fill(str(folder))
    page.locator("#train-look").click()
    expect(page.locator("#train-told")).to_contain_text("1 caption is missing")
    caption = page.get_by_label("Caption of a.mp4")
    caption.fill("a wave")
    caption.blur()
    expect(page.locator("#train-told")).to_contain_text("a.txt is saved. 0 pictures, 1 video.")
    assert (folder / "a.txt").read_text(encoding="utf-8") == "a wave\n"


def start_what_is_refused_first(page: Any) -> None:
    """For its name, which is missing, and for a number that a fold hides."""
    start = page.locator("#train-start")
    page.get_by_label("Motion").click()
    page.get_by_label("Quick").click()
    start.click()
    expect(page.locator("#train-out .refusal")).to_have_text("This is missing.")
    entry(page, "out").fill("my style")
    page.locator("#train-advanced > button").click()
    expect(entry(page, "steps")).to_have_value("400")
    expect(entry(page, "discrete_flow_shift")).to_have_value("6")
    entry(page, "steps").fill("0")
    page.locator("#train-advanced > button").click()
    start.click()
    expect(page.locator("#train-steps .refusal")).to_be_in_viewport()
    entry(page, "steps").fill("60")
    entry(page, "save_every_n_steps").fill("20")
    start.click()


def look_at_the_training(page: Any) -> None:
    training = page.locator(TRAINING)
    expect(training).to_contain_text("step 30 of 60")
    expect(training.locator(".losses polyline")).to_have_count(2)
    expect(training).to_contain_text("Saved after step 20: my style-000020.safetensors")
