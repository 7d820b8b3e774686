"""The line that says what runs, the choice in it, and the form that follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from diffusers_helper.errors import UnusableCheckpoint
from diffusers_helper.models.about import About
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from diffusers_helper.recall import Recalled
from diffusers_helper.ui import checkpoint_line, presets_tab
from diffusers_helper.ui.checkpoint_line import examples_html, line_html, offered
from diffusers_helper.ui.commands import Commands
from diffusers_helper.ui.form import FOLLOW_CHECKPOINT, NAMES
from diffusers_helper.ui.look_ahead import look_ahead, plan_html
from diffusers_helper.ui.restore_tab import Found, Restore
from diffusers_helper.ui.starting import Starting, connect, mode_bar, start_row
from diffusers_helper.words import LANGUAGES, Texts

from ..jobs_support import make_picture
from .stage import HOSTILE, Stage, answer, click, make_stage

ABOUT = About.model_validate_json(
    '{"title": {"en": "A toy.", "ja": "おもちゃ。"}, "limits": "No people.", "default_seconds": 1.2,'
    ' "good_up_to_seconds": 2.4, "examples": [{"en": "it pans", "zh": "平移"}, "<b>"]}'
)
TOY = Checkpoint("toy", "toy", ("f1", "framepack"), {}, ((64, 64), (48, 96), (96, 48)), about=ABOUT)
LARGE = Checkpoint("large", "/models/large", ("framepack",), {}, ((640, 640),))
ENGLISH = Texts("en")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return make_stage(tmp_path, TOY, LARGE)


@pytest.fixture
def alone(tmp_path: Path) -> Stage:
    return make_stage(tmp_path, TOY)


def choose(stage: Stage, name: str) -> dict[str, Any]:
    chosen = checkpoint_line._choose(stage.context, stage.form)(name, "en")
    return dict(zip(FOLLOW_CHECKPOINT, chosen, strict=True))


def test_the_line_says_what_it_is_what_it_cannot_and_its_sizes(alone: Stage) -> None:
    line = line_html(TOY, alone.context, ENGLISH)
    for words in ("<strong>A toy.</strong>", "No people.", "Sides of 48–96 pixels", 'data-act="system"'):
        assert words in line
    assert "おもちゃ。" in line_html(TOY, alone.context, Texts("ja"))


def test_a_checkpoint_that_says_nothing_has_its_name_and_sizes(stage: Stage) -> None:
    line = line_html(LARGE, stage.context, ENGLISH)
    assert "<strong>large</strong>" in line
    assert "Sides of 640 pixels" in line
    assert "data-act" not in line
    assert line_html(None, stage.context, ENGLISH) == ""


def test_what_a_file_says_is_text_and_no_markup(stage: Stage) -> None:
    about = About(title={"en": HOSTILE}, purpose={"en": HOSTILE}, examples=({"en": HOSTILE},))
    hostile = Checkpoint(HOSTILE, "x", ("f1",), {}, ((64, 64),), about=about)
    assert "<img" not in line_html(hostile, stage.context, ENGLISH) + examples_html(hostile, ENGLISH)


@pytest.mark.parametrize(("language", "shown"), [("en", "it pans"), ("zh", "平移"), ("ja", "it pans")])
def test_examples_speak_the_page_s_language_and_bring_english(language: str, shown: str) -> None:
    examples = examples_html(TOY, Texts(language))
    assert 'data-value="it pans"' in examples
    assert f">{shown}</button>" in examples
    assert examples_html(LARGE, Texts(language)) == ""


def test_there_is_a_choice_only_between_several(stage: Stage, tmp_path: Path) -> None:
    assert offered(stage.context) == gr.update(choices=["toy", "large"], value="toy", visible=True)
    (tmp_path / "one").mkdir()
    one = make_stage(tmp_path / "one", TOY)
    assert offered(one.context) == gr.update(choices=["toy"], value="toy", visible=False)


def test_a_page_keeps_the_choice_it_shows(stage: Stage) -> None:
    choose(stage, "large")
    assert offered(stage.context, "toy")["value"] == "toy"
    assert offered(stage.context, "gone")["value"] == "large"


def test_a_choice_brings_kinds_sizes_and_defaults(stage: Stage) -> None:
    large = choose(stage, "large")
    assert [value for _, value in large["kind"]["choices"]] == ["framepack"]
    assert [value for _, value in large["size"]["choices"]] == ["fit", "640x640"]
    assert (large["kind"]["value"], large["size"]["value"], large["seconds"]["value"]) == ("framepack", "fit", 5.0)
    toy = choose(stage, "toy")
    assert (toy["kind"]["value"], toy["seconds"]["value"]) == ("f1", 1.2)
    assert [value for _, value in toy["size"]["choices"]] == ["fit", "64x64", "96x48", "48x96"]


@pytest.mark.parametrize("name", ["gone", "/models/large", HOSTILE])
def test_what_is_not_installed_cannot_be_chosen(stage: Stage, name: str) -> None:
    with pytest.raises(gr.Error, match="not installed here"):
        choose(stage, name)
    assert stage.context.checkpoint == TOY


def test_the_form_begins_with_the_length_of_the_checkpoint(stage: Stage) -> None:
    assert stage.form["seconds"].value == 1.2
    assert stage.form.defaults["seconds"] == 1.2


def test_a_job_is_for_the_checkpoint_that_its_page_shows(stage: Stage, tmp_path: Path) -> None:
    """Whatever was chosen on another page meanwhile."""
    picture = str(make_picture(tmp_path))
    values = stage.values(picture=picture, kind="framepack")
    choose(stage, "large")
    add = Starting(stage.context, stage.form).add
    add("en", "toy", *values)
    add("en", "large", *values)
    assert [job.checkpoint for job in stage.queue.jobs()] == ["toy", "/models/large"]
    with pytest.raises(UnusableCheckpoint, match="not installed"):
        add("en", "gone", *values)


def test_a_preset_comes_in_for_the_checkpoint_that_the_page_shows(stage: Stage) -> None:
    stage.context.presets.save("mine", {"size": "64x64", "kind": "f1"})
    choose(stage, "large")
    with stage.page.blocks:
        presets_tab.build(stage.page, stage.form)
    listed = next(one for one in stage.page.blocks.blocks.values() if one.elem_id == "presets-list")
    load = click("load", value='["mine", ""]')
    for name, filled in (("toy", {"size": "64x64", "kind": "f1"}), ("large", {})):
        shown = {stage.page.language: "en", stage.form.checkpoint: name}
        assert stage.filled(answer(stage, listed, "click", shown, load)[1:]) == filled


def test_a_file_is_compared_with_what_the_page_s_checkpoint_makes(stage: Stage) -> None:
    found = Found("a.mp4", Recalled("framepack", {"size": "64x64", "kind": "f1"}))
    choose(stage, "large")
    restore = Restore(stage.page, stage.form)
    assert "is not made by" not in restore.compare(found, "en", "toy", *stage.values())
    assert "is not made by" in restore.compare(found, "en", "large", *stage.values())
    taken = restore.take(found, "en", "toy", click("some", value="size kind"))
    assert stage.filled(taken) == {"size": "64x64", "kind": "f1"}


def test_leaving_a_job_goes_back_to_the_checkpoint_that_the_page_showed(stage: Stage) -> None:
    """Whatever was chosen on another page meanwhile, with what the draft had of it."""
    choose(stage, "large")
    with stage.page.blocks:
        connect(stage.page, stage.form, start_row(stage.page, mode_bar()), gr.Button())
    draft = json.dumps({"run": stage.context.run, "values": {"checkpoint": "toy", "size": "64x64", "kind": "f1"}})
    editing = stage.form.editing
    change = next(one for one in stage.page.blocks.fns.values() if (editing._id, "change") in one.targets)
    *_, name = left = list(change.fn(0, "en", draft))
    filled = stage.filled(left[3:])
    assert (name["value"], filled["size"], filled["kind"]) == ("toy", "64x64", "f1")


def test_editing_shows_the_checkpoint_of_the_job_and_what_it_offers(stage: Stage, tmp_path: Path) -> None:
    add = Starting(stage.context, stage.form).add
    add("en", "large", *stage.values(picture=str(make_picture(tmp_path)), kind="framepack", seconds=7.0))
    told = Commands(stage.page, stage.form).carry_out("en", None, click("edit", 1), gr.Request())
    editing, *shown_values = told
    shown = dict(zip(NAMES, shown_values, strict=False))
    assert (editing, told[-1]) == (1, "large")
    assert shown["seconds"]["value"] == 7.0
    assert [value for _, value in shown["kind"]["choices"]] == ["framepack"]


def test_the_plan_says_when_a_video_is_longer_than_the_checkpoint_can(stage: Stage) -> None:
    def plan(seconds: float, chosen: str) -> str:
        return plan_html({**stage.form.defaults, "seconds": seconds}, stage.context, ENGLISH, chosen)

    assert "known to get worse after 2.4 s" in plan(4.0, "toy")
    assert "worse" not in plan(2.4, "toy")
    assert "worse" not in plan(60.0, "large")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_default_follows_the_choice(stage: Stage, language: str) -> None:
    with gr.Blocks(analytics_enabled=False):
        form = stage.form
        form.place_with_reset("seconds")
    values = stage.values(seconds=3)
    for chosen, default in (("toy", "1.2"), ("large", "5")):
        reset = look_ahead(form, stage.context, language, values, chosen)[-1]
        assert default in json.loads(reset)["seconds"]["words"]


def test_the_pocket_s_own_line_tells_a_newcomer_what_it_is(alone: Stage, pocket: Path) -> None:
    line = line_html(find_checkpoint("pocket", pocket), alone.context, ENGLISH)
    for words in ("small built-in model", "about a second", "13B", "Sides of 96–176 pixels"):
        assert words in line
