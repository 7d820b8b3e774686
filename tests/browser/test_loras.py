"""Averages of LoRA files, and sizes that are typed, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from diffusers_helper.lora.shares import Profile, shares
from tests.jobs_support import make_picture
from tests.lora.test_ema import UP, lora, write

from .conftest import Serve, Visit

SHARES = shares(Profile().betas(3))


def test_files_that_came_later_are_ticked_weighed_and_averaged(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    page = visit(serve(models_dir=str(tmp_path)))
    folder = tmp_path / "lora"
    page.get_by_role("tab", name="Average LoRAs").click()
    page.locator("#average-shares", has_text=str(folder)).wait_for()
    folder.mkdir()
    write(folder, {f"style-{epoch:06}": lora(epoch) for epoch in (10, 15, 20)})
    page.locator("#average-files label", has_text="style-000010").wait_for()
    page.get_by_role("button", name="15–25: β 0.8").click()
    bars = page.locator("#average-shares li")
    bars.nth(1).wait_for()
    assert [" ".join(each.split()) for each in bars.all_inner_texts()] == [
        "style-000015.safetensors 80.0%",
        "style-000020.safetensors 20.0%",
    ]
    page.locator("#average-name textarea, #average-name input").fill("mean")
    page.locator("#average-make").click()
    page.locator("#average-files label", has_text="mean.safetensors").wait_for()
    mean = load_file(folder / "mean.safetensors")[UP]
    assert mean.allclose(0.8 * lora(15)[UP] + 0.2 * lora(20)[UP])


def test_untouched_numbers_count_the_files_as_the_command_does(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    """The second beta is empty, not 0, by which the last file alone would count."""
    folder = tmp_path / "lora"
    folder.mkdir()
    write(folder, {f"style-{epoch:06}": lora(epoch) for epoch in (10, 15, 20)})
    page = visit(serve(models_dir=str(tmp_path)))
    page.get_by_role("tab", name="Average LoRAs").click()
    for epoch in (10, 15, 20):
        page.locator("#average-files label", has_text=f"style-{epoch:06}").click()
    bars = page.locator("#average-shares li")
    bars.nth(2).wait_for()
    assert [each.split()[-1] for each in bars.all_inner_texts()] == [f"{share:.1%}" for share in SHARES]
    assert page.get_by_label("β of the last file").input_value() == ""


@pytest.mark.parametrize("size", ["64x96", "96x96"])
def test_under_rope_scaling_a_larger_size_is_typed(serve: Serve, visit: Visit, tmp_path: Path, size: str) -> None:
    place = serve()
    place.queue.pause()
    page = visit(place)
    page.locator("#picture input[type=file]").set_input_files(make_picture(tmp_path))
    page.locator("#advanced > button").click()
    field = page.locator("#field-size input")
    field.fill(size)
    field.press("Enter")
    page.locator("#field-size", has_text="With RoPE scaling above 1").wait_for()
    page.locator("#field-rope_scaling_factor input").fill("1.5")
    page.locator("#plan", has_text=size.replace("x", " × ")).or_(
        page.locator("#framing", has_text="×")
    ).first.wait_for()
    page.locator("#start").click()
    page.get_by_role("tab", name="Queue").click()
    page.locator(".q-row").first.wait_for()
    (job,) = place.queue.jobs()
    assert (job.request.size, job.request.rope_scaling_factor) == (size, 1.5)
