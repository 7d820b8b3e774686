"""LoRAs of the form: found by name or content, sent with their weights, refused at their field; and hints."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from diffusers_helper.lora.said import Said
from diffusers_helper.request import Lora
from diffusers_helper.ui import loras
from diffusers_helper.ui.commands import Commands
from diffusers_helper.ui.draft import restored
from diffusers_helper.ui.form import NAMES
from diffusers_helper.ui.fragments_queue import render
from diffusers_helper.ui.look_ahead import look_ahead
from diffusers_helper.ui.lora_section import OF_ONE_FRAME, TAKEN, hints_html, places_of, taken
from diffusers_helper.ui.presets_tab import Presets
from diffusers_helper.ui.restore_tab import Restore
from diffusers_helper.ui.starting import NOTHING_WRONG, Starting
from diffusers_helper.words import LANGUAGES, Texts

from ..jobs_support import make_picture
from ..lora import building
from ..lora.building import Built, random
from .shelves import looked, put_on_shelf, shelf_of, small_checkpoint
from .stage import HOSTILE, Stage, click, make_stage
from .test_fragments_queue import Seen

NAME = "people/style.safetensors"
TOLD = {
    "ss_base_model_version": "framepack",
    "modelspec.trigger_phrase": f"wtrclr {HOSTILE}",
    "recommended_steps": "30",
    "recommended_guidance": "6.5",
    "ss_datasets": json.dumps([{"fp_1f_target_index": 1}]),
}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return make_stage(tmp_path, small_checkpoint(tmp_path))


@pytest.fixture
def starting(stage: Stage) -> Starting:
    return Starting(stage.context, stage.form)


def chosen(name: str = NAME, weight: Any = 0.8, sha256: str = "") -> dict[str, Any]:
    return {"name": name, "sha256": sha256, "weight": weight}


def start(stage: Stage, *wanted: Mapping[str, Any], language: str = "en") -> dict[str, str]:
    """Press Start with these; returns what is wrong, by field."""
    looked(stage.context.loras)
    values = stage.values(picture=str(make_picture(stage.folder)), loras=wanted)
    said, refused = Starting(stage.context, stage.form).add(language, "small", *values)
    assert bool(said) == (refused == NOTHING_WRONG)
    return dict(json.loads(refused)["fields"])


def queued(stage: Stage) -> tuple[Lora, ...]:
    (job,) = stage.queue.jobs()
    return job.request.loras


def test_what_is_chosen_is_in_the_request_with_its_content_and_weight(stage: Stage) -> None:
    content = put_on_shelf(stage.folder, NAME, building.peft())
    other = put_on_shelf(stage.folder, "b.safetensors", building.loha())
    assert start(stage, chosen(), chosen("b.safetensors", -1)) == {}
    first, second = Lora(name=NAME, sha256=content, weight=0.8), Lora(name="b.safetensors", sha256=other, weight=-1)
    assert queued(stage) == (first, second)


def test_a_weight_at_the_end_is_sent_kept_in_words_and_checked(stage: Stage) -> None:
    content = put_on_shelf(stage.folder, NAME, building.peft())
    changing = {**chosen(), "weight_at_end": 0.2}
    assert start(stage, changing) == {}
    assert queued(stage) == (Lora(name=NAME, sha256=content, weight=0.8, weight_at_end=0.2),)
    assert loras.from_text(loras.as_text([changing])) == (changing,)
    assert loras.from_text(loras.as_text([chosen()])) == (chosen(),)
    assert loras.in_words([changing]) == f"{NAME} × 0.8 → 0.2"
    for wrong in (11, "x", True):
        assert "give a weight from -10 to 10" in start(stage, {**chosen(), "weight_at_end": wrong})["loras"]


def test_a_content_that_was_renamed_is_taken_under_its_new_name(stage: Stage) -> None:
    content = put_on_shelf(stage.folder, "new name.safetensors", building.peft())
    assert start(stage, chosen("old name.safetensors", sha256=content)) == {}
    assert queued(stage) == (Lora(name="new name.safetensors", sha256=content, weight=0.8),)


def test_a_name_means_the_file_that_has_it_now(stage: Stage) -> None:
    put_on_shelf(stage.folder, NAME, building.peft())
    looked(stage.context.loras)
    content = put_on_shelf(stage.folder, NAME, building.loha())
    assert start(stage, chosen()) == {}
    assert queued(stage)[0].sha256 == content


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("sha256", ["", "a" * 64])
def test_one_that_is_not_there_is_refused_at_the_field(stage: Stage, language: str, sha256: str) -> None:
    refused = start(stage, chosen("gone.safetensors", sha256=sha256), language=language)
    assert refused.keys() == {"loras"}
    assert "gone.safetensors" in refused["loras"]
    assert str(shelf_of(stage.folder)) in refused["loras"]
    assert stage.queue.jobs() == []


def test_a_content_that_has_changed_is_told_from_one_that_is_gone(stage: Stage) -> None:
    put_on_shelf(stage.folder, NAME, building.peft())
    assert f"The file of the LoRA {NAME} is another one now" in start(stage, chosen(sha256="a" * 64))["loras"]


BAD: dict[str, tuple[bytes | Built, str]] = {
    "half": (b"\x80\0\0\0\0\0\0\0{", "a part of it is missing"),
    "web": (b"<html>", "it is a web page"),
    "large": (
        Built({f"transformer.transformer_blocks.0.attn.to_q.lora_{name}.weight": random(99, 99) for name in "AB"}),
        "99 x 99",
    ),
    "other": (Built({"unet.down.lora_A.weight": random(2, 2)}), "none names a layer of this model"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_that_cannot_be_used_is_refused_with_its_name_and_the_reason(stage: Stage, name: str) -> None:
    content, words = BAD[name]
    put_on_shelf(stage.folder, f"{name}.safetensors", content if isinstance(content, Built) else None)
    if isinstance(content, bytes):
        (shelf_of(stage.folder) / f"{name}.safetensors").write_bytes(content)
    refused = start(stage, chosen(f"{name}.safetensors"))["loras"]
    assert refused.startswith(f"{name}.safetensors: ")
    assert words in refused


@pytest.mark.parametrize("weight", [11, -10.5, "much", None, float("nan"), True])
def test_a_weight_that_is_none_is_refused(stage: Stage, weight: Any) -> None:
    put_on_shelf(stage.folder, NAME, building.peft())
    assert start(stage, chosen(weight=weight)) == {"loras": f"{NAME}: give a weight from -10 to 10."}


def test_start_does_not_wait_for_ever_for_a_file_that_is_read(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    monkeypatch.setattr("diffusers_helper.lora.shelf.sha256_of", lambda path: held.wait(20) and "a" * 64)
    monkeypatch.setattr(loras, "PATIENCE_SECONDS", 0.05)
    put_on_shelf(stage.folder, NAME, building.peft())
    assert start(stage, chosen()) == {"loras": f"{NAME} is still being read. Start again in a moment."}
    held.set()
    monkeypatch.setattr(loras, "PATIENCE_SECONDS", 20)
    assert start(stage, chosen()) == {}


# Jobs, drafts, files, presets.


def test_editing_a_job_shows_its_loras_and_saves_others(stage: Stage, starting: Starting) -> None:
    content = put_on_shelf(stage.folder, NAME, building.peft())
    looked(stage.context.loras)
    job = stage.add(loras=[chosen(sha256=content)])
    shown = stage.filled(edit(stage, job.id)[1:])
    assert json.loads(shown["loras"]) == [chosen(sha256=content)]
    picture = str(stage.queue.picture(job.id))
    starting.save(job.id, "en", "small", *stage.values(picture=picture, loras=[chosen(weight=0.3)]))
    assert stage.queue.job(job.id).request.loras == (Lora(name=NAME, sha256=content, weight=0.3),)
    starting.save(job.id, "en", "small", *stage.values(picture=picture))
    assert stage.queue.job(job.id).request.loras == ()


def test_a_job_without_loras_takes_those_of_the_form_out(stage: Stage) -> None:
    assert stage.filled(edit(stage, stage.add().id)[1:])["loras"] == "[]"


def edit(stage: Stage, job: int) -> list[Any]:
    commands = Commands(stage.page, stage.form)
    return commands.carry_out("en", "small", click("edit", job), gr.Request())


def test_a_draft_keeps_what_was_chosen_and_a_hostile_one_nothing(stage: Stage) -> None:
    kept = [{"name": NAME, "weight": 0.8}, {"name": "b", "weight": 1, "sha256": "a" * 64}]
    for values, wanted in (
        (json.dumps(kept), kept),
        ('[{"name": 5}, 7, {"weight": 1}]', []),
        ("[" * 9000, []),
        (7, []),
    ):
        draft = json.dumps({"run": stage.context.run, "values": {"loras": values}})
        shown = dict(zip(NAMES, restored(draft, stage.form, stage.page), strict=True))
        assert json.loads(shown["loras"]) == wanted


def test_a_file_brings_its_loras_back(stage: Stage) -> None:
    content = put_on_shelf(stage.folder, "renamed.safetensors", building.peft())
    looked(stage.context.loras)
    file = stage.folder / "recipe.json"
    file.write_text(json.dumps({"schema_version": 3, "loras": [chosen(sha256=content)]}))
    restore = Restore(stage.page, stage.form)
    found, shown = restore.read(str(file), "en", "small", *stage.values())
    assert f"{NAME} × 0.8" in Seen(shown).text
    taken_in = stage.filled(restore.take(found, "en", "small", click("some", value="loras")))
    assert json.loads(taken_in["loras"]) == [chosen(sha256=content)]
    assert start(stage, *json.loads(taken_in["loras"])) == {}
    assert queued(stage)[0].name == "renamed.safetensors"


def test_the_same_loras_are_no_difference(stage: Stage) -> None:
    content = put_on_shelf(stage.folder, NAME, building.peft())
    assert start(stage, chosen()) == {}
    file = stage.folder / "recipe.json"
    file.write_text(json.dumps({"schema_version": 3, "loras": [chosen(sha256=content)]}))
    _, shown = Restore(stage.page, stage.form).read(str(file), "en", "small", *stage.values(loras=[chosen()]))
    assert "all these settings already" in Seen(shown).text


def test_a_preset_keeps_loras_by_their_contents(stage: Stage) -> None:
    content = put_on_shelf(stage.folder, NAME, building.peft())
    looked(stage.context.loras)
    Presets(stage.context, stage.form).save("Mine", ["loras"], False, "en", *stage.values(loras=[chosen()]))
    assert stage.context.presets.load("Mine").values == {"loras": (chosen(sha256=content),)}


# What is said of them.


def hints(stage: Stage, *wanted: Mapping[str, Any], **fields: Any) -> Seen:
    watch, shown = looked(stage.context.loras), {**stage.form.defaults, "loras": wanted, **fields}
    assert watch.wait(lambda: all(watch.meant(each["name"]) for each in wanted), 20)
    return Seen(hints_html(shown, stage.context, Texts("en"), "small"))


def told() -> Built:
    return Built(building.peft().tensors, metadata=TOLD)


def test_settings_in_a_file_are_offered_and_what_the_form_lacks_is_told(stage: Stage) -> None:
    put_on_shelf(stage.folder, NAME, told())
    seen = hints(stage, chosen())
    assert f"{NAME} goes with other settings: Steps 30, Distilled guidance 6.5" in seen.text
    assert "trained for one frame with target_index 1" in seen.text
    assert [(one["data-act"], one["data-value"]) for one in seen.all("button")] == [
        ("lora_words", NAME), ("lora_settings", NAME),
    ]  # fmt: skip
    seen = hints(stage, chosen(), steps=30, distilled_guidance=6.5, prompt=f"WTRCLR {HOSTILE}")
    assert seen.all("button") == []
    assert seen.all("img") == []


def test_a_click_on_a_hint_sets_the_fields(stage: Stage) -> None:
    put_on_shelf(stage.folder, NAME, told())
    looked(stage.context.loras)
    assert set_by(stage, "lora_settings") == {"steps": 30, "distilled_guidance": 6.5}
    assert set_by(stage, "lora_words", "a cat ") == {"prompt": f"a cat, wtrclr {HOSTILE}"}
    assert set_by(stage, "lora_one_frame") == {"kind": "one_frame", "one_frame_target_index": 1}
    for name in ("gone", "../style.safetensors"):
        assert set_by(stage, "lora_settings", name=name) == {}


def set_by(stage: Stage, act: str, prompt: str = "a cat", name: str = NAME) -> dict[str, Any]:
    """What a click on a hint changes, by field."""
    answer = taken(stage.context, prompt, click(act, value=name))
    fields = zip(("prompt", *TAKEN, *OF_ONE_FRAME), answer, strict=True)
    return {field: value for field, value in fields if value != gr.skip()}


def test_where_a_lora_has_its_pictures_in_time_is_offered_where_the_checkpoint_makes_one(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, replace(small_checkpoint(tmp_path), kinds=("framepack", "one_frame")))
    put_on_shelf(tmp_path, NAME, Built(building.peft().tensors, metadata=TOLD))
    looked(stage.context.loras)
    shown = {**stage.form.defaults, "loras": (chosen(),), "prompt": f"wtrclr {HOSTILE}"}
    shown |= {"steps": 30, "distilled_guidance": 6.5}
    assert stage.context.loras.wait(lambda: stage.context.loras.meant(NAME) is not None, 20)
    (button,) = Seen(hints_html(shown, stage.context, Texts("en"))).all("button")
    assert (button["data-act"], button["data-value"]) == ("lora_one_frame", NAME)
    assert hints_html({**shown, "kind": "one_frame", "one_frame_target_index": 1}, stage.context, Texts("en")) == ""


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"fp_1f_clean_indices": [0, 10], "fp_1f_target_index": 1, "fp_1f_no_post": True},
         {"one_frame_control_index": "0;10", "one_frame_target_index": 1, "one_frame_post": False}),
        ({"fp_latent_window_size": 12}, {"latent_window": 12}),
        ({"fp_1f_clean_indices": "<img>", "fp_1f_target_index": "1", "fp_1f_no_post": "no"}, {}),
        ({"fp_1f_clean_indices": [], "fp_1f_target_index": 65, "fp_latent_window_size": None}, {}),
    ],
)  # fmt: skip
def test_only_places_that_a_request_takes_are_read(said: dict[str, Any], found: dict[str, Any]) -> None:
    told = Said("", "", (), {}, said, {})
    assert places_of(told) == ({"kind": "one_frame", **found} if found else {})


def test_settings_that_no_request_takes_are_not_offered(stage: Stage) -> None:
    wild = {"recommended_steps": "1e300", "recommended_guidance": "nan"}
    put_on_shelf(stage.folder, NAME, Built(building.peft().tensors, metadata=wild))
    assert hints(stage, chosen()).text.strip() == ""


def test_a_new_name_is_told(stage: Stage) -> None:
    content = put_on_shelf(stage.folder, "new.safetensors", building.peft())
    looked(stage.context.loras)
    watch = stage.context.loras
    assert watch.wait(lambda: watch.meant("old.safetensors", content) is not None, 20)
    said = hints_html(
        {**stage.form.defaults, "loras": [chosen("old.safetensors", sha256=content)]}, stage.context, Texts("en")
    )
    assert "The LoRA old.safetensors was found as new.safetensors" in Seen(said).text


def test_a_job_s_loras_stand_among_its_facts(stage: Stage) -> None:
    stage.add(loras=[chosen(HOSTILE, 0.35, "a" * 64)])
    seen = Seen(render(stage.context, Texts("en"))["queue"])
    assert f"LoRA: {HOSTILE} × 0.35" in seen.text
    assert [image for image in seen.all("img") if "onerror" in image] == []


def test_another_model_and_what_has_no_effect_is_told(stage: Stage) -> None:
    put_on_shelf(stage.folder, "flux.safetensors", Built(building.peft().tensors, metadata={"base_model": "flux"}))
    more = {**building.peft().tensors, "lora_te1.x": random(2, 2)}
    put_on_shelf(stage.folder, "more.safetensors", Built(more))
    seen = hints(stage, chosen("flux.safetensors"), chosen("more.safetensors"))
    assert "flux.safetensors was made for FLUX, another model" in seen.text
    count = len(more)
    assert f"more.safetensors: {count - 1} of {count} tensors have an effect here." in seen.text
    assert start(stage, chosen("flux.safetensors")) == {}


def test_while_the_form_is_filled_in_it_says_what_is_wrong(stage: Stage) -> None:
    looked(stage.context.loras)
    wrong, _, _, plan, *_ = look_ahead(stage.form, stage.context, "en", stage.values(loras=[chosen("gone")]), "small")
    assert "no LoRA gone in" in json.loads(wrong)["fields"]["loras"]
    assert "To put right first: LoRAs" in plan
    put_on_shelf(stage.folder, NAME, building.peft())
    looked(stage.context.loras)
    wrong, _, _, plan, *_ = look_ahead(stage.form, stage.context, "en", stage.values(loras=[chosen()]), "small")
    assert json.loads(wrong)["fields"] == {}
    assert "frames" in plan
