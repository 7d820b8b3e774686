"""Presets on the page: saved from the form, shown with what they hold, and back in the form."""

from __future__ import annotations

import base64
import json

import pytest

from diffusers_helper.errors import UnusableInput
from diffusers_helper.ui.form import NAMES
from diffusers_helper.ui.options import OF_OPTION
from diffusers_helper.ui.presets_tab import Presets, build
from diffusers_helper.words import LANGUAGES

from .stage import HOSTILE, Stage, click, tab_of
from .test_fragments_queue import Seen

OF_OTHERS = set(OF_OPTION) - {"auto_strength", "mp4_crf", "mp4_pixels"}
"""The parameters of options that are not the usual ones."""
EVERYTHING = ["settings", "prompt", "seed", "loras"]


@pytest.fixture
def presets(stage: Stage) -> Presets:
    return Presets(stage.context, stage.form)


def press(presets: Presets, act: str, name: str, answer: str = "") -> list[object]:
    done = presets.carry_out("en", None, click(act, value=json.dumps([name, answer])))
    assert len(done) == len(NAMES) + 2
    return done


def names(stage: Stage) -> list[str]:
    return [preset.name for preset in stage.context.presets.presets()]


def test_a_preset_is_a_round_trip_of_the_form(stage: Stage, presets: Presets) -> None:
    values = stage.values(prompt="a wave", seed=2**62, steps=40, step_cache="off", size="64x64", kind="f1")
    shown, _ = presets.save("Mine", EVERYTHING, False, "en", *values)
    assert "Mine" in shown
    answer = press(presets, "load", "Mine")
    filled = stage.filled(answer[1:])
    idle = {"picture", "pictures", "auto_strength", *OF_OTHERS}
    assert set(filled) == set(NAMES) - idle
    assert {name: filled[name] for name in filled if name not in idle} == {
        name: value for name, value in zip(NAMES, values, strict=True) if name not in idle
    }
    assert tab_of(answer) == "generate"


@pytest.mark.parametrize(
    ("parts", "fields"),
    [
        (["prompt"], {"prompt", "negative_prompt"}),
        (["seed"], {"seed"}),
        (["settings"], set(NAMES) - {"picture", "pictures", "prompt", "negative_prompt", "seed", "loras", *OF_OTHERS}),
        (["loras"], {"loras"}),
    ],
)
def test_a_preset_keeps_what_was_ticked(stage: Stage, presets: Presets, parts: list[str], fields: set[str]) -> None:
    presets.save("Mine", parts, False, "en", *stage.values())
    assert set(stage.context.presets.load("Mine").values) == fields


@pytest.mark.parametrize("parts", [[], ["picture"], ["__class__"]])
def test_a_preset_of_nothing_is_refused(stage: Stage, presets: Presets, parts: list[str]) -> None:
    with pytest.raises(UnusableInput, match="must keep something"):
        presets.save("Mine", parts, False, "en", *stage.values())


def test_a_form_that_makes_no_sense_is_not_kept(stage: Stage, presets: Presets) -> None:
    with pytest.raises(UnusableInput, match="seed"):
        presets.save("Mine", EVERYTHING, False, "en", *stage.values(seed="many"))
    assert names(stage) == []


def test_replacing_must_be_wanted_and_is_wanted_once(stage: Stage, presets: Presets) -> None:
    presets.save("Mine", ["seed"], False, "en", *stage.values(seed=1))
    with pytest.raises(UnusableInput, match="already"):
        presets.save("mine", ["seed"], False, "en", *stage.values(seed=2))
    _, box = presets.save("mine", ["seed"], True, "en", *stage.values(seed=2))
    assert stage.context.presets.load("Mine").values == {"seed": 2}
    assert box["value"] is False


def test_start_up_rename_and_delete(stage: Stage, presets: Presets) -> None:
    presets.save("Mine", ["seed"], False, "en", *stage.values(seed=1))
    assert "Start-up preset" not in str(press(presets, "no_startup", "Mine")[0])
    assert "Start-up preset" in str(press(presets, "startup", "Mine")[0])
    press(presets, "rename", "Mine", "夜")
    startup = stage.context.presets.startup()
    assert startup is not None
    assert startup.name == "夜"
    with pytest.raises(UnusableInput):
        press(presets, "rename", "夜", "")
    with pytest.raises(UnusableInput, match="no preset"):
        press(presets, "delete", "Mine")
    press(presets, "delete", "夜")
    assert names(stage) == []


def test_a_kind_that_this_checkpoint_does_not_make_stays(stage: Stage, presets: Presets) -> None:
    stage.context.presets.save("Mine", {"size": "640x640", "steps": 7})
    with pytest.warns(UserWarning, match="640x640 is not made by this checkpoint"):
        assert stage.filled(press(presets, "load", "Mine")[1:]) == {"steps": 7}


def test_the_export_link_holds_the_file(stage: Stage, presets: Presets) -> None:
    stage.context.presets.save("夜", {"prompt": HOSTILE})
    (link,) = Seen(presets.listed("en")).all("a")
    kind, content = str(link["href"]).split(",")
    assert kind == "data:application/json;base64"
    text = base64.b64decode(content).decode()
    assert text == stage.context.presets.export_text("夜")
    assert str(link["download"]).endswith(".json")


def test_importing_takes_the_good_and_refuses_the_bad_whole(stage: Stage, presets: Presets) -> None:
    good = stage.folder / "good.json"
    good.write_text('{"framepack_preset": 1, "name": "夜", "values": {"steps": 7}}', encoding="utf-8")
    files = {"newer.json": b'{"framepack_preset": 2}', "cut.json": b'{"framepack', "picture.json": b"\x89PNG\xff"}
    for name, content in files.items():
        (stage.folder / name).write_bytes(content)
    with pytest.warns(UserWarning, match="json") as told:
        shown, cleared = presets.take_in([str(stage.folder / name) for name in (*files, "good.json")], "en")
    (warning,) = told
    assert [reason.split(":")[0] for reason in str(warning.message).split("<br>")] == list(files)
    assert names(stage) == ["夜"]
    assert "夜" in shown
    assert cleared is None
    assert presets.take_in(None, "en")[1] is None


OTHER_PROGRAM = {"en": "another program wrote it", "ja": "別のプログラムが書いたものです", "zh": "它由其他程序写入"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_why_a_file_is_refused_is_in_the_language_of_the_page(stage: Stage, presets: Presets, language: str) -> None:
    (stage.folder / "other.json").write_text("{}")
    with pytest.warns(UserWarning, match=OTHER_PROGRAM[language]):
        presets.take_in([str(stage.folder / "other.json")], language)
    stage.context.presets.save("Mine", {})
    (stage.context.presets.folder / "other.json").write_text("{}")
    assert OTHER_PROGRAM[language] in presets.listed(language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_and_values_are_shown_as_text(stage: Stage, presets: Presets, language: str) -> None:
    stage.context.presets.save(HOSTILE, {"prompt": HOSTILE * 50, "size": "64x64"})
    (stage.context.presets.folder / "<b>bad.json").write_text(json.dumps({"framepack_preset": HOSTILE}))
    seen = Seen(presets.listed(language))
    assert seen.text.count(HOSTILE) >= 2
    assert "<b>bad.json" in seen.text
    assert "img" not in {tag for tag, _ in seen.tags}
    assert {button["data-value"] for button in seen.all("button")} == {HOSTILE}
    assert HOSTILE * 20 not in seen.text


def test_an_empty_list_says_what_to_do(presets: Presets) -> None:
    assert "no presets yet" in presets.listed("en")


@pytest.mark.parametrize("value", ["", "x", "[1]", "null", '["a"]', "[" * 100_000, '{"a": 1}'])
def test_a_strange_click_does_nothing(stage: Stage, presets: Presets, value: str) -> None:
    stage.context.presets.save("Mine", {})
    with pytest.raises(UnusableInput, match="no preset"):
        presets.carry_out("en", None, click("delete", value=value))
    presets.carry_out("en", None, click("__init__", value=value))
    assert names(stage) == ["Mine"]


def test_the_tab_wires_private_events_only(stage: Stage) -> None:
    with stage.page.blocks:
        build(stage.page, stage.form)
    events = stage.page.blocks.fns.values()
    assert events
    assert all(event.api_visibility == "private" for event in events)
