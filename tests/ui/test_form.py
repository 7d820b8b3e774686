"""The request as a form: every field goes there and back, and what the form says about itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.data_classes import ImageData
from PIL import Image

from diffusers_helper.errors import InvalidRequest, Problem, UnusablePicture
from diffusers_helper.media import pictures
from diffusers_helper.request import SEED_MAX, Recipe, Request
from diffusers_helper.request.fields import fields
from diffusers_helper.ui.draft import now_shown, restored, upload_named
from diffusers_helper.ui.form import NAMES, Form, defaults_of
from diffusers_helper.ui.generate_tab import ADVANCED
from diffusers_helper.ui.look_ahead import (
    IDLE,
    framing_html,
    idle_updates,
    look_ahead,
    plan_html,
    speed_update,
)
from diffusers_helper.ui.server import uploads_folder
from diffusers_helper.ui.speed import CUSTOM, LEVELS, level_of
from diffusers_helper.ui.starting import Starting
from diffusers_helper.words import LANGUAGES, Texts

from ..jobs_support import make_picture
from ..media.test_pictures import png_of_size
from .serving import make_context, settings_for
from .shelves import EMPTY_LORA, put_on_shelf
from .stage import Stage, make_stage

OTHER: dict[str, Any] = {
    "picture": "/pictures/a.png",
    "prompt": "a <b>wave</b>\n{{x}} ${y}",
    "seconds": 7.25,
    "loras": ({"name": "style.safetensors", "sha256": hashlib.sha256(EMPTY_LORA).hexdigest(), "weight": 0.8},),
    "kind": "framepack",
    "one_frame_target_index": 4,
    "one_frame_control_index": "0;13",
    "one_frame_post": False,
    "one_frame_history_2x": False,
    "one_frame_history_4x": False,
    "one_frame_embedding": "mean",
    "size": "64x64",
    "seed": SEED_MAX,
    "steps": 11,
    "step_cache": "off",
    "auto_strength": "fast",
    "teacache_threshold": 0.123,
    "teacache_forecast": True,
    "magcache_threshold": 0.15,
    "magcache_k": 4,
    "magcache_retention_ratio": 0.3,
    "magcache_gate": 0.06,
    "magcache_mag_ratios": "1.0, 1.5, 0.9",
    "magcache_calibration": True,
    "magcache_forecast": True,
    "easycache_threshold": 0.02,
    "easycache_forecast": True,
    "seacache_threshold": 0.3,
    "seacache_forecast": True,
    "first_block_threshold": 0.04,
    "first_block_forecast": True,
    "distilled_guidance": 3.5,
    "real_cfg": 2.5,
    "cfg_rescale": 0.7,
    "negative_prompt": "blur",
    "latent_window": 5,
    "rope_scaling_factor": 1.25,
    "rope_scaling_timestep_threshold": 500,
    "decoding": "quality",
    "lora_mode": "merged",
    "output": "webm",
    "mp4_crf": 20,
    "mp4_pixels": "444",
    "webm_codec": "av1",
    "webm_crf": 33,
    "webp_quality": 50,
    "webp_lossless": True,
    "preserved_memory_gb": 8.5,
}
"""A value other than the default for every field but the pictures of one picture (test_one_frame.py)."""


OF_ONE_PICTURE = {name: value for name, value in OTHER.items() if name.startswith("one_frame_")}
CONTROLS = [{"role": "control", "path": f"{name}.png"} for name in "ab"]
WORDS = ("reason", "found", "most", "side", "choices")
"""What a text about a picture may name besides its file."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("stage")
    put_on_shelf(folder, "style.safetensors")
    return make_stage(folder)


def values(form: Form, **changes: Any) -> list[Any]:
    return form.values_of({**form.defaults, "picture": "/pictures/a.png", **changes})


def test_the_form_has_every_field_of_a_request_that_has_a_choice() -> None:
    assert set(NAMES) == {"picture", "pictures", *fields(Recipe)}
    assert set(OTHER) == set(NAMES) - {"pictures"}
    advanced = [name for group in ADVANCED.values() for name in group]
    elsewhere = {"picture", "pictures", "prompt", "seconds", "loras", "lora_mode", "kind", *OF_ONE_PICTURE}
    assert sorted(advanced) == sorted(set(NAMES) - elsewhere)


def test_a_request_comes_back_from_the_form_as_it_was(stage: Stage) -> None:
    request = Request.parse(OTHER)
    shown = [OTHER.get(name) if value == gr.skip() else value for name, value in filled(stage, request).items()]
    assert stage.form.request_of(shown) == request


def filled(stage: Stage, request: Request) -> dict[str, Any]:
    """What the components get; those of a step cache that is off stay as they are."""
    return dict(zip(NAMES, stage.form.values_of(request.flat()), strict=True))


@pytest.mark.parametrize("name", OTHER)
def test_every_field_comes_through_its_component(stage: Stage, name: str) -> None:
    """As Gradio does it: the value is made ready for the browser, comes back as JSON and is read."""
    inputs = {"pictures": CONTROLS, **OF_ONE_PICTURE} if name in OF_ONE_PICTURE else {"picture": "a.png"}
    request = Request.parse({**inputs, name: OTHER[name]})
    component = stage.form[name]
    shown = dict(zip(NAMES, stage.form.values_of(request.flat()), strict=True))[name]
    if name != "picture":
        shown = component.preprocess(component.postprocess(shown))
    assert stage.form.meant({name: shown})[name] == OTHER[name]


def test_defaults_are_the_request_s_with_the_checkpoint_s_best_kind(stage: Stage) -> None:
    request = stage.form.request_of(values(stage.form))
    assert request == Request.parse({"picture": "/pictures/a.png", "kind": "f1"})


def test_the_settings_may_name_another_step_cache(stage: Stage) -> None:
    settings = settings_for(stage.folder, enable_fbcache="1")
    context = make_context(stage.queue, settings, checkpoints=stage.context.checkpoints)
    assert context.defaults(None) == {"step_cache": "first_block"}
    assert context.defaults(stage.context.checkpoint)["step_cache"] == "first_block"
    assert defaults_of(None, context)["step_cache"] == "first_block"
    assert defaults_of(None, stage.context)["step_cache"] == "auto"


def test_fields_that_are_not_given_stay(stage: Stage) -> None:
    shown = dict(zip(NAMES, stage.form.values_of({"seed": 5}), strict=True))
    assert shown.pop("seed") == "5"
    assert all(value == gr.skip() for value in shown.values())


def test_a_size_that_the_checkpoint_does_not_make_stays_out(stage: Stage) -> None:
    shown = dict(zip(NAMES, stage.form.values_of({"size": "640x640", "kind": "other"}), strict=True))
    assert shown["size"] == shown["kind"] == gr.skip()


def test_without_a_picture_it_says_so(stage: Stage) -> None:
    with pytest.raises(InvalidRequest) as caught:
        stage.form.request_of(values(stage.form, picture=None))
    assert caught.value.problems == (Problem("picture", "missing"),)


def test_a_picture_that_is_gone_is_said_to_be_when_a_job_is_added(stage: Stage) -> None:
    """Uploads are tidied away after a day and at each start; a page may be open for longer."""
    shown = stage.form["picture"].preprocess(ImageData(path="/pictures/gone.png"))
    with pytest.raises(UnusablePicture, match=r"gone\.png' cannot be read: No such file"):
        stage.queue.add(stage.form.request_of(values(stage.form, picture=shown)))
    assert stage.form["picture"].preprocess(None) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("steps", None), ("steps", 2.5), ("seed", "seven"), ("seed", str(2**63)), ("seed", "9" * 5000),
     ("seconds", 1e308),
     ("seconds", float("nan")), ("step_cache", "yes"), ("size", "big"), ("prompt", 7), ("real_cfg", "")],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_the_field_s_name(stage: Stage, name: str, value: Any) -> None:
    shown = values(stage.form)
    shown[NAMES.index(name)] = value
    with pytest.raises(InvalidRequest, match=f"^{name}: "):
        stage.form.request_of(shown)
    shown[NAMES.index("picture")] = None
    refused, _, _, plan, *_ = look_ahead(stage.form, stage.context, "en", shown)
    assert list(json.loads(refused)["fields"]) == [name]
    assert Texts("en")(f"generate.{name}") in plan


def test_the_plan_says_the_true_length(stage: Stage) -> None:
    plan = plan_html({**stage.form.defaults, "seconds": 5.0}, stage.context, Texts("en"))
    assert "4.8 s" in plan
    assert "145 frames" in plan
    assert "4 sections" in plan
    assert Texts("en")("generate.plan_time_unknown") in plan


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_wrong_is_said_in_the_language_of_the_page(stage: Stage, language: str) -> None:
    shown = values(stage.form, picture=None)
    for name, wrong in (("seconds", None), ("seed", "<b>"), ("prompt", "x" * 10_001), ("size", "big"), ("steps", 0)):
        shown[NAMES.index(name)] = wrong
    texts = Texts(language)
    assert json.loads(look_ahead(stage.form, stage.context, language, shown)[0])["fields"] == {
        "prompt": texts("refusal.too_long", most=10_000),
        "seed": texts("refusal.seed_whole_number", low=-1, high=SEED_MAX),
        "seconds": texts("refusal.number", low=1, high=120),
        "steps": texts("refusal.whole_number", low=1, high=100),
        "size": texts("refusal.size_other"),
    }


def test_a_size_of_another_checkpoint_is_refused_with_those_of_this_one(stage: Stage, tmp_path: Path) -> None:
    shown = values(stage.form, picture=str(make_picture(tmp_path)))
    shown[NAMES.index("size")] = "640x640"
    said, refused = Starting(stage.context, stage.form).add("en", "scripted", *shown)
    assert (said, json.loads(refused)["fields"]) == ("", {"size": Texts("en")("refusal.size_choice", choices="64x64")})
    assert json.loads(look_ahead(stage.form, stage.context, "en", shown)[0])["fields"] == json.loads(refused)["fields"]


def test_under_rope_scaling_a_larger_size_is_typed_shown_and_sent(stage: Stage, tmp_path: Path) -> None:
    shown = values(stage.form, picture=str(make_picture(tmp_path)), size="80x96", rope_scaling_factor=1.5)
    size = stage.form["size"]
    assert size.preprocess(size.postprocess(shown[NAMES.index("size")])) == "80x96"
    assert stage.form.request_of(shown).size == "80x96"
    assert json.loads(look_ahead(stage.form, stage.context, "en", shown)[0])["fields"] == {}
    assert "80 × 96" in look_ahead(stage.form, stage.context, "en", shown)[1]
    for refused in ({"size": "80x96"}, {"size": "80x96", "rope_scaling_factor": 1.4}, {"size": "48x64"}):
        alone = dict(zip(NAMES, stage.form.values_of(refused), strict=True))
        assert alone["size"] == gr.skip()


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_recognised_by_what_it_sets(level: str) -> None:
    fields = {"steps": 1, "step_cache": "teacache", "teacache_threshold": 0.5, **LEVELS[level]}
    assert level_of(fields) == level
    assert level_of({**fields, "steps": 99}) == CUSTOM


def test_balanced_is_what_a_request_does_by_default(stage: Stage) -> None:
    assert speed_update(stage.form.defaults, Texts("en"))["value"] == "balanced"


@pytest.mark.parametrize(("real_cfg", "acts"), [(1, False), (2.0, True)])
def test_what_has_no_effect_is_greyed_and_says_why(real_cfg: float, acts: bool) -> None:
    updates = idle_updates({"real_cfg": real_cfg}, Texts("en"))
    for name, update in zip(IDLE, updates, strict=True):
        assert update["interactive"] is acts
        assert update["info"] == Texts("en")(f"generate.{name}_{'info' if acts else 'idle'}")


def test_resets_say_the_default_where_there_is_something_to_reset(stage: Stage) -> None:
    with gr.Blocks():
        form = Form(stage.page)
        for name in NAMES:
            form.place(name) if name in ("picture", "pictures") else form.place_with_reset(name)
    shown = dict(zip(NAMES, values(form, steps=30), strict=True))
    told = json.loads(form.resets_text(shown, Texts("en")))
    assert told == {"steps": {"value": 25, "words": "↺ Default: 25"}}
    others = {**shown, "size": "64x64", "negative_prompt": "no", "step_cache": "off"}
    told = json.loads(form.resets_text(others, Texts("en")))
    assert told["size"] == {"value": "fit", "words": "↺ Default: fits the picture"}
    assert told["negative_prompt"] == {"value": "", "words": "↺ Default: empty"}
    assert told["step_cache"] == {"value": "auto", "words": "↺ Default: auto: the best one measured"}


@pytest.mark.parametrize(
    ("size", "cut", "soft"), [((64, 64), False, False), ((500, 100), True, False), ((40, 40), False, True)]
)
def test_the_framing_says_the_size_and_whether_edges_are_cut(
    stage: Stage, tmp_path: Path, size: tuple[int, int], cut: bool, soft: bool
) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    fields = {**stage.form.defaults, "picture": str(tmp_path / "a.png")}
    shown, unusable = framing_html(fields, stage.context, Texts("en"))
    assert unusable == ()
    assert "64 × 64" in shown
    assert ("edges are cut off" in shown, "becomes soft" in shown) == (cut, soft)
    assert f'data-seen="{100 / size[0] if cut else 1:.4f} 1.0000"' in shown


BAD_PICTURES = {
    "unreadable": None,
    "empty": b"",
    "format": b"%PDF-1.4",
    "large": png_of_size(20_000_000, 2),
    "large_file": b"GIF89a" + bytes(2000),
    "damaged": b"GIF89a",
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_a_picture_that_cannot_be_used_is_refused_before_the_start_in_the_language_of_the_page(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, language: str
) -> None:
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 1000)
    if (content := BAD_PICTURES[kind]) is not None:
        (tmp_path / "a.png").write_bytes(content)
    shown = values(stage.form, picture=str(tmp_path / "a.png"))
    seen = json.loads(look_ahead(stage.form, stage.context, language, shown)[0])["fields"]["picture"]
    started = Starting(stage.context, stage.form).add(language, "scripted", *shown)
    assert json.loads(started[1])["fields"] == {"picture": seen}
    own = Texts(language)(f"refusal.picture_{kind}", name="'a.png'", **dict.fromkeys(WORDS, "|")).split("|")
    assert all(words in seen for words in own)
    assert language == "en" or "PDF document" not in seen


def draft_of(form: Form, run: str, **fields: Any) -> str:
    shown = dict(zip(NAMES, form.values_of({**form.defaults, **fields}), strict=True))
    return json.dumps({"run": run, "values": {**shown, "picture": fields.get("picture")}})


def opened(stage: Stage, draft: Any) -> dict[str, Any]:
    return dict(zip(NAMES, restored(draft, stage.form, stage.page), strict=True))


def test_a_draft_comes_back(stage: Stage) -> None:
    shown = opened(stage, draft_of(stage.form, stage.context.run, prompt="mine", seed=7))
    assert (shown["prompt"], shown["seed"], shown["picture"]) == ("mine", "7", None)


@pytest.mark.parametrize("draft", [None, 7, "", "[]", "{}", '{"values": 3}', "[" * 100_000])
def test_a_broken_draft_changes_nothing(stage: Stage, draft: Any) -> None:
    assert all(value == gr.skip() for value in opened(stage, draft).values())


def test_what_makes_no_sense_in_a_draft_is_left_out(stage: Stage) -> None:
    shown = opened(stage, json.dumps({"values": {"steps": "many", "kind": [], "x": 1, "seconds": 3}}))
    assert {name for name, value in shown.items() if value != gr.skip()} == {"seconds", "picture"}


def upload(stage: Stage, name: str, content: bytes) -> Path:
    """A file among the uploads, as Gradio keeps it; its folder is its name for a browser."""
    place = uploads_folder(stage.context.settings.paths.output_dir) / hashlib.sha256(content).hexdigest() / name
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    return place


def test_a_draft_brings_its_picture_as_long_as_it_is_among_the_uploads(stage: Stage, tmp_path: Path) -> None:
    place = upload(stage, "夜 1.png", make_picture(tmp_path).read_bytes())
    draft = draft_of(stage.form, stage.context.run, picture=f"{place.parent.name}/{place.name}")
    assert opened(stage, draft)["picture"] == str(place)
    place.unlink()
    assert opened(stage, draft)["picture"] is None


def test_what_the_form_shows_comes_as_one_text(stage: Stage) -> None:
    """Also what makes no sense, and a picture that is gone: that is to be said. Other files are no pictures of it."""
    name = f"{'a' * 64}/gone.png"
    shown = {**dict(zip(NAMES, values(stage.form), strict=True)), "steps": None, "seed": "many", "picture": name}
    told = json.dumps({"values": {"checkpoint": "scripted", **shown}})
    assert now_shown(told, stage.form) == ["scripted", *{**shown, "picture": str(stage.form.uploads / name)}.values()]
    other = json.dumps({"values": {**shown, "picture": "/etc/passwd"}})
    assert now_shown(other, stage.form)[1 + NAMES.index("picture")] is None


@pytest.mark.parametrize("broken", [None, 7, "", "[]", "{}", '{"values": 3}', "[" * 100_000])
def test_before_it_is_told_the_form_shows_its_defaults(stage: Stage, broken: Any) -> None:
    assert now_shown(broken, stage.form) == [None, *stage.form.values_of(stage.form.defaults)]


def test_no_other_file_comes_with_a_draft(stage: Stage, tmp_path: Path) -> None:
    outside = make_picture(tmp_path)
    folder = upload(stage, "notes.txt", b"no picture").parent
    (folder / "link.png").symlink_to(outside)
    uploads, name = folder.parent, folder.name
    (uploads / "other").mkdir()
    (uploads / "other" / "a.png").write_bytes(outside.read_bytes())
    for wrong in (
        str(outside), f"{name}/notes.txt", f"{name}/link.png", f"{name}/gone.png", f"{name}/..", "other/a.png",
        f"{name}/../other/a.png", f"../{outside.name}", f"{name}/{'x' * 300}", f"{name}/\0", f"{name}/", "", 7, [name],
    ):  # fmt: skip
        assert upload_named(wrong, uploads) is None, wrong


def test_the_startup_preset_goes_over_a_draft_of_an_earlier_run_only(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    stage.context.presets.save("mine", {"steps": 9})
    stage.context.presets.choose_startup("mine")
    assert opened(stage, None)["steps"] == 9
    assert opened(stage, draft_of(stage.form, "earlier", steps=40, prompt="kept"))["steps"] == 9
    assert opened(stage, draft_of(stage.form, "earlier", steps=40, prompt="kept"))["prompt"] == "kept"
    assert opened(stage, draft_of(stage.form, stage.context.run, steps=40))["steps"] == 40
