"""The list of the shelf: what is shown of a file, what is looked for, and pictures that are served by a key alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from diffusers_helper.ui.fragments_queue import STEP, Wish
from diffusers_helper.ui.lora_section import hints_html
from diffusers_helper.ui.loras import LORAS
from diffusers_helper.ui.routes import LORA_PICTURE_PIXELS, LiveAnswers, own_routes
from diffusers_helper.ui.shelf_list import render, size
from diffusers_helper.words import LANGUAGES, Texts

from ..lora import building
from ..lora.building import Built, random
from .shelves import looked, put_on_shelf, shelf_of, small_checkpoint
from .stage import HOSTILE, Stage, make_stage
from .test_fragments_queue import Seen

WISH: dict[str, Any] = {"shelf": STEP, "model": "small"}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return make_stage(tmp_path, small_checkpoint(tmp_path))


def listed(stage: Stage, language: str = "en", **wish: Any) -> Seen:
    looked(stage.context.loras)
    return Seen(render(stage.context, Texts(language), Wish(**{**WISH, **wish})))


def boxes(seen: Seen) -> dict[str, bool]:
    """Name -> whether it can be ticked."""
    return {str(box["data-lora"]): "disabled" not in box for box in seen.all("input")}


def test_a_file_is_shown_with_what_is_known_of_it(stage: Stage) -> None:
    said = {
        "modelspec.title": "A style", "modelspec.trigger_phrase": "wtrclr", "modelspec.description": "soft edges",
        "ss_base_model_version": "framepack",
    }  # fmt: skip
    put_on_shelf(stage.folder, "people/a.safetensors", Built(building.musubi_framepack().tensors, metadata=said))
    seen = listed(stage)
    assert boxes(seen) == {"people/a.safetensors": True}
    for words in (
        "A style",
        "Trigger words: wtrclr",
        "soft edges",
        "musubi FramePack",
        "for FramePack",
        "rank 4",
        "kB",
    ):
        assert words in seen.text


def test_bad_files_and_those_of_another_model_say_why_and_cannot_be_ticked(stage: Stage) -> None:
    put_on_shelf(stage.folder, "good.safetensors", building.peft())
    put_on_shelf(stage.folder, "other.safetensors", Built({"unet.down.lora_A.weight": random(2, 2)}))
    (shelf_of(stage.folder) / "html.safetensors").write_bytes(b"<html>")
    flux = Built(building.peft().tensors, metadata={"base_model": "flux"})
    put_on_shelf(stage.folder, "flux.safetensors", flux)
    seen = listed(stage)
    assert boxes(seen) == {
        "flux.safetensors": True, "good.safetensors": True, "html.safetensors": False, "other.safetensors": False,
    }  # fmt: skip
    assert "Not usable: it is a web page" in seen.text
    assert "Not usable with small: made for another model" in seen.text
    assert "Made for FLUX, another model" in seen.text


def test_names_and_words_of_strangers_are_text(stage: Stage) -> None:
    name = f"{HOSTILE.replace('/', '')} 🦊.safetensors"
    said = {"modelspec.title": HOSTILE, "modelspec.description": HOSTILE, "modelspec.trigger_phrase": HOSTILE}
    put_on_shelf(stage.folder, name, Built(building.peft().tensors, metadata=said))
    seen = listed(stage)
    assert list(boxes(seen)) == [name]
    assert seen.all("img") == []
    assert seen.text.count(HOSTILE) == 4


def test_what_a_file_says_is_shown_only_as_far_as_a_page_can_take_it(stage: Stage) -> None:
    long = "x" * 100_000
    keys = ("modelspec.title", "modelspec.description", "modelspec.trigger_phrase", "base_model")
    put_on_shelf(stage.folder, "a.safetensors", Built(building.peft().tensors, metadata=dict.fromkeys(keys, long)))
    looked(stage.context.loras)
    chosen = {"prompt": "", LORAS: ({"name": "a.safetensors", "sha256": "", "weight": 1.0},)}
    for html in (
        render(stage.context, Texts("en"), Wish(**WISH)),
        hints_html(chosen, stage.context, Texts("en"), "small"),
    ):
        assert "xxx…" in html
        assert len(html) < 5000


def test_words_are_looked_for_in_names_and_notes_and_more_are_shown_when_asked(stage: Stage) -> None:
    for number in range(STEP + 2):
        put_on_shelf(stage.folder, f"style-{number:02}.safetensors")
    said = {"modelspec.description": "for Portraits"}
    put_on_shelf(stage.folder, "z.safetensors", Built(building.peft().tensors, metadata=said))
    assert len(boxes(listed(stage))) == STEP
    assert len(boxes(listed(stage, shelf=2 * STEP))) == STEP + 3
    assert [one["data-wish"] for one in listed(stage).all("button")] == [f"shelf={2 * STEP}"]
    assert list(boxes(listed(stage, lora="portraits FOR"))) == ["z.safetensors"]
    assert list(boxes(listed(stage, lora="STYLE 07"))) == ["style-07.safetensors"]
    assert "No LoRA has these words" in listed(stage, lora="nothing like that").text


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_empty_shelf_says_where_files_belong(stage: Stage, language: str) -> None:
    assert str(stage.folder / "models" / "lora") in listed(stage, language).text


def test_a_page_that_shows_no_list_gets_none_and_looks_at_no_folder(stage: Stage) -> None:
    assert render(stage.context, Texts("en"), Wish()) == ""
    assert not stage.context.loras.has_looked
    assert Wish.of({}).shelf == 0
    asked = Wish.of({"shelf": "48", "lora": "x" * 999, "model": "pocket"})
    assert (asked.shelf, len(asked.lora), asked.model) == (48, 200, "pocket")
    assert Wish.of({"shelf": "-5"}).shelf == STEP


def test_what_is_new_on_the_shelf_is_told_at_once(stage: Stage) -> None:
    answers, wish = LiveAnswers(stage.context), Wish(**WISH)
    before = answers._fresh("en", wish).seen
    put_on_shelf(stage.folder, "new.safetensors", building.peft())
    looked(stage.context.loras)
    after = answers._fresh("en", wish)
    assert after.seen != before
    assert b"new.safetensors" in after.body


def test_sizes_are_as_people_count_them() -> None:
    assert [size(count) for count in (15, 205_080, 322_000_000, 1_250_000_000)] == [
        "0.015 kB",
        "205 kB",
        "322 MB",
        "1.25 GB",
    ]


def test_a_picture_beside_a_file_is_served_small_by_its_key_and_nothing_else_is(stage: Stage) -> None:
    for name in ("a", "broken"):
        put_on_shelf(stage.folder, f"{name}.safetensors", building.peft())
    Image.new("RGB", (2000, 1000), "teal").save(shelf_of(stage.folder) / "a.png")
    (shelf_of(stage.folder) / "broken.jpg").write_bytes(b"<svg onload=alert(1)>")
    addresses = {Path(str(one["src"])).stem: str(one["src"]) for one in listed(stage).all("img")}
    assert len(addresses) == 2
    client = TestClient(Starlette(routes=own_routes(stage.context)))
    answers = [client.get(f"/{address}") for address in addresses.values()]
    assert sorted(answer.status_code for answer in answers) == [200, 404]
    shown = next(answer for answer in answers if answer.status_code == 200)
    assert shown.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(shown.content)).size == (LORA_PICTURE_PIXELS, LORA_PICTURE_PIXELS // 2)
    for key in ("a", "a.png", "..%2Fa.png", "0" * 32, "%2Fetc%2Fpasswd", ""):
        assert client.get(f"/media/lora/{key}.jpg").status_code == 404
    (key,) = (key for key, address in addresses.items() if client.get(f"/{address}").status_code == 200)
    Image.new("RGB", (20, 10), "red").save(shelf_of(stage.folder) / "a.png")
    assert key not in str([one["src"] for one in listed(stage).all("img")])
