"""A choice holds exactly one option with its own parameters, and what is wrong with it is told by its flat name."""

import json
from typing import Any, ClassVar

import pytest
from pydantic import field_validator
from pydantic_core import PydanticCustomError

from diffusers_helper.caches.step_cache import StepCacheOption
from diffusers_helper.caches.table import STEP_CACHES
from diffusers_helper.caches.teacache import TeaCacheOption
from diffusers_helper.errors import InvalidRequest, UnusableInput
from diffusers_helper.presets import Preset, checked_values
from diffusers_helper.request import Recipe, Request
from diffusers_helper.request.fields import fields
from diffusers_helper.request.output import Frames, Gif, Mp4, Png, Webm, Webp
from diffusers_helper.sections.kinds import F1, FramePack, OneFrame

CONTROL = {"role": "control", "path": "a.png"}


@pytest.mark.parametrize(
    ("named", "field", "option"),
    [
        ({"step_cache": "off"}, "step_cache", None),
        ({"step_cache": "off", "teacache_threshold": 0.3}, "step_cache", None),
        ({"step_cache": "teacache"}, "step_cache", TeaCacheOption(threshold=0.15)),
        ({"teacache_threshold": 0.3}, "step_cache", TeaCacheOption(threshold=0.3)),
        ({"teacache": False, "teacache_threshold": 0.3}, "step_cache", None),
        ({"teacache": True}, "step_cache", TeaCacheOption()),
        ({"kind": "f1"}, "kind", F1()),
        ({"kind": "one_frame", "one_frame_target_index": 4}, "kind", OneFrame(target_index=4)),
        ({"one_frame_post": False}, "kind", OneFrame(post=False)),
        ({"kind": "one_frame"}, "output", Png()),
        ({"mp4_crf": 20}, "output", Mp4(crf=20)),
        ({"output": "mp4", "mp4_pixels": "10bit"}, "output", Mp4(pixels="10bit")),
        ({"output": "webm", "mp4_crf": 20}, "output", Webm()),
        ({"webm_codec": "av1", "webm_crf": 30}, "output", Webm(codec="av1", crf=30)),
        ({"output": "gif"}, "output", Gif()),
        ({"webp_lossless": True}, "output", Webp(lossless=True)),
        ({"output": "frames"}, "output", Frames()),
        ({"kind": "one_frame", "output": "png"}, "output", Png()),
        ({}, "kind", FramePack()),
    ],
)
def test_flat_values_choose_an_option(named: dict[str, Any], field: str, option: object) -> None:
    recipe = Recipe.parse(named)
    assert getattr(recipe, field) == option
    assert Recipe.parse(recipe.flat()) == recipe
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"step_cache": {"name": "other"}}, "step_cache: 'other' is not allowed; give 'off' or 'auto' or 'teacache'"),
        ({"step_cache": {}}, "step_cache: {} is not allowed"),
        ({"step_cache": "teacache"}, "step_cache: 'teacache' is not allowed"),
        ({"step_cache": {"name": "teacache", "threshold": 2}}, "teacache_threshold: 2 is not allowed; give a number"),
        ({"step_cache": {"name": "teacache", "steps": 2}}, "teacache_steps: is not a field"),
        ({"kind": {"name": "video"}}, "kind: 'video' is not allowed; give 'framepack' or 'f1'"),
        ({"kind": None}, "kind: None is not allowed"),
        ({"output": {"name": "png"}}, "output: 'png' is not allowed; give a video, as framepack makes"),
        ({"output": {"name": "avi"}}, "output: 'avi' is not allowed; give 'mp4' or 'webm' or 'gif' or 'webp' or"),
        ({"output": {"name": "mp4", "pixels": "12bit"}}, "mp4_pixels: '12bit' is not allowed; give '8bit', '10bit' or"),
        (
            {"output": {"name": "webm", "codec": "vp8"}},
            "webm_codec: 'vp8' is not allowed; give 'vp9', 'vp9_444', 'av1'",
        ),
        ({"output": {"name": "webm", "crf": 0}}, "webm_crf: 0 is not allowed; give a whole number from 1 to 63"),
        (
            {"output": {"name": "webp", "quality": 101}},
            "webp_quality: 101 is not allowed; give a whole number from 0 to",
        ),
        ({"output": {"name": "webp", "lossless": 1}}, "webp_lossless: 1 is not allowed; give true or false"),
        ({"output": {"name": "gif", "crf": 1}}, "gif_crf: is not a field"),
        ({"kind": {"name": "one_frame"}, "output": {"name": "mp4"}}, "output: 'mp4' is not allowed; give a picture"),
        ({"prompts": []}, "prompts: [] is not allowed; give times that follow each other"),
        ({"prompts": [{"text": "a", "from_second": 1}]}, "the first 0"),
        ({"prompts": [{"text": "a"}, {"text": "b", "from_second": 3}, {"text": "c", "from_second": 2}]}, "follow each"),
        ({"prompts": [{"text": "a"}, {"text": 7, "from_second": 3}]}, "prompts.1.text: 7 is not allowed; give a text"),
        ({"loras": [{"name": "x", "sha256": "zz"}]}, "loras.0.sha256: 'zz' is not allowed"),
    ],
)
def test_data_that_holds_no_option_is_refused(data: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Recipe.from_data({"schema_version": 2, **data})
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pictures": [{"path": "a"}, {"path": "b"}]}, "one start picture"),
        ({"pictures": [{"role": "end", "path": "b"}]}, "picture: is missing; give path of the start picture"),
        ({"pictures": [{"path": "a"}, {"role": "end", "path": "b"}]}, "pictures that framepack has a use for: start"),
        ({"pictures": [{"path": "a"}, {"role": "key", "path": "b", "at_second": 9}]}, "before the end of the video"),
        ({"pictures": [{"path": "a"}, {"role": "key", "path": "b"}]}, "at_second for a key picture"),
        ({"pictures": [{"path": "a", "mask": "m"}]}, "a mask for control pictures only"),
        ({"pictures": [{"path": "a"}, {"role": "end"}]}, "pictures.1.path: is missing"),
        ({"pictures": [{"path": "a"}, {"role": "cover", "path": "b"}]}, "pictures.1.role: 'cover' is not allowed"),
        ({"pictures": [{"path": "a"}], "video": "v.mp4"}, "video: 'v.mp4' is not allowed"),
        (
            {"kind": {"name": "one_frame"}, "pictures": [{"path": "a"}]},
            "pictures: is missing; give path of the control",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Request.from_data({"schema_version": 2, **inputs})
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"one_frame_control_index": "0;10"}, "one_frame_control_index: 0;10 has 2 places for 1 picture"),
        ({"one_frame_control_index": "0;-1"}, "one_frame_control_index: '0;-1' is not allowed; give time indices of"),
        ({"one_frame_control_index": "１"}, "one_frame_control_index: '１' is not allowed"),
        ({"one_frame_control_index": "0" + ";1" * 100}, "is not allowed; give time indices"),
        ({"one_frame_control_index": "1.5"}, "one_frame_control_index: '1.5' is not allowed"),
        ({"one_frame_control_index": ""}, "one_frame_control_index: '' is not allowed"),
        ({"one_frame_control_index": 3}, "one_frame_control_index: 3 is not allowed; give a text"),
        ({"one_frame_embedding": "control_2"}, "one_frame_embedding: there is no picture 2 for the image encoder"),
        ({"one_frame_embedding": "end"}, "one_frame_embedding: 'end' is not allowed; give which picture"),
        ({"one_frame_target_index": 65}, "one_frame_target_index: 65 is not allowed; give a whole number from 0 to 64"),
    ],
)
def test_what_does_not_fit_a_single_picture_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Request.parse({"kind": "one_frame", "pictures": [CONTROL], **fields})
    assert words in str(refusal.value)


def test_a_recipe_holds_no_inputs() -> None:
    request = Request.parse({"picture": "/home/me/secret.png", "seed": 5, "pictures": ()})
    assert request.recipe == Recipe.parse({"seed": 5})
    assert "secret" not in request.recipe.to_json()


def test_every_parameter_has_a_flat_name_of_its_own() -> None:
    named = fields(Recipe)
    assert {"teacache_threshold", "mp4_crf", "one_frame_target_index", "step_cache", "kind", "prompt"} <= set(named)
    assert all(field.info.description for field in named.values())


def test_a_request_knows_its_paths() -> None:
    pictures = [CONTROL, {**CONTROL, "path": "b.png", "mask": "m.png"}]
    request = Request.parse({"one_frame_control_index": "0;10", "pictures": pictures})
    assert request.picture_paths == ("a.png", "b.png", "m.png")
    assert request.with_paths(str.upper).picture_paths == ("A.PNG", "B.PNG", "M.PNG")
    assert request.shown_picture == "a.png"


def test_a_request_is_its_flat_values() -> None:
    pictures = [CONTROL, {**CONTROL, "path": "b.png", "mask": "m.png"}]
    for named in (
        {"picture": "s.png", "one_frame_control_index": "0;10", "one_frame_embedding": "mean", "pictures": pictures},
        {"one_frame_control_index": "0;10", "pictures": pictures},
        {"picture": "s.png", "kind": "f1"},
    ):
        request = Request.parse(named)
        assert Request.parse(request.flat()) == request
        assert request.flat().get("pictures", []) == named.get("pictures", [])


@pytest.mark.parametrize(
    ("teacache", "step_cache", "fits"),
    [(True, "teacache", True), (False, "off", True), (True, "off", False), (False, "teacache", False)],
)
def test_an_older_name_must_not_say_otherwise(teacache: bool, step_cache: str, fits: bool) -> None:
    named = {"teacache": teacache, "step_cache": step_cache}
    if fits:
        assert Recipe.parse(named) == Recipe.parse({"step_cache": step_cache})
    else:
        with pytest.raises(InvalidRequest, match="teacache: is an older name of step_cache"):
            Recipe.parse(named)


def test_several_prompts_are_lost_on_no_way() -> None:
    prompts = [{"text": "a", "from_second": 0}, {"text": "b", "from_second": 2}]
    recipe = Recipe.from_data({"schema_version": 2, "prompts": prompts})
    assert recipe.flat()["prompt"] == "a"
    assert Recipe.parse(recipe.flat()) == recipe
    with pytest.raises(UnusableInput, match="cannot hold 'prompts'"):
        checked_values(recipe.flat())


@pytest.mark.parametrize("pictures", [5, "x", None, [7], {}])
def test_pictures_that_are_none_are_refused(pictures: Any) -> None:
    with pytest.raises(InvalidRequest, match="pictures"):
        Request.parse({"picture": "a.png", "pictures": pictures})


@pytest.mark.parametrize("name", ["kind", "step_cache"])
@pytest.mark.parametrize("value", ["\ud800", "x" * 5000, 7, None, [], {}, {"name": "\udcff"}])
def test_an_odd_option_is_refused_by_its_name(name: str, value: Any) -> None:
    if name == "step_cache" and value is None:
        return
    with pytest.raises(InvalidRequest) as refusal:
        Recipe.parse({name: value})
    assert str(refusal.value).startswith(f"{name}: ")
    assert refusal.value.problems[0].kind == "choice"
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("value", ["\ud800", 0, 1, "yes", None])
def test_version_1_with_an_odd_switch_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="step_cache"):
        Recipe.from_data({"schema_version": 1, "teacache": value, "teacache_threshold": 0.2})


@pytest.mark.parametrize(
    "named",
    [
        {"step_cache": "off", "teacache_threshold": 99},
        {"teacache": False, "teacache_threshold": "junk"},
        {"kind": "f1", "one_frame_target_index": -1},
    ],
)
def test_a_parameter_of_an_option_that_is_not_chosen_is_checked_too(named: dict[str, Any]) -> None:
    *_, wrong = named
    with pytest.raises(InvalidRequest, match=f"^{wrong}: "):
        Recipe.parse(named)


@pytest.mark.parametrize("output", [5, {"name": "avi"}, {"name": "mp4", "bitrate": 1}, {"name": "png"}])
def test_an_output_that_is_none_is_refused_by_its_name(output: Any) -> None:
    preset = {"framepack_preset": 2, "name": "x", "values": {"output": output}}
    with pytest.raises(UnusableInput, match=r"output|mp4_bitrate"):
        Preset.from_json(json.dumps(preset))


def test_an_option_may_refuse_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(StepCacheOption):
        name: ClassVar[str] = "picky"

        level: int = 0

        @field_validator("level")
        @classmethod
        def _is_even(cls, level: int) -> int:
            if level % 2:
                raise PydanticCustomError("odd", "an even number")
            return level

    monkeypatch.setitem(STEP_CACHES, "picky", Picky)
    with pytest.raises(InvalidRequest, match="picky_level: 3 is not allowed; give an even number"):
        Recipe.parse({"step_cache": "picky", "picky_level": 3})


def test_defaults_stand_for_what_is_not_said() -> None:
    defaults = {"kind": "f1", "seconds": 2.4}
    assert Recipe.parse({}, defaults).flat()["kind"] == "f1"
    assert Recipe.parse({"schema_version": 2}, defaults).kind == F1()
    assert Recipe.parse({"schema_version": 1, "kind": "framepack"}, defaults).kind == FramePack()
    assert Recipe.parse({"one_frame_target_index": 3}, defaults).kind == OneFrame(target_index=3)


def test_a_key_that_only_sounds_like_a_picture_is_named_as_it_is() -> None:
    with pytest.raises(InvalidRequest, match=r"^my picture: is not a field"):
        Request.parse({"picture": "a", "my picture": 1})
