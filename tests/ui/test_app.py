"""The page as a whole: it builds quickly, without torch, in every language, and asks nobody else for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from diffusers_helper.ui import generate_tab, translation
from diffusers_helper.ui.app import HERE, build_page, launch_options
from diffusers_helper.ui.form import NAMES
from diffusers_helper.words import LANGUAGES, Texts

from ..conftest import ROOT
from .stage import Stage

PUBLIC = {"submit", "status", "cancel", "result", "list"}

BUILD = """
import sys, types
from pathlib import Path
from diffusers_helper.ui.app import build_page, launch_options
from diffusers_helper.ui.fragments import render
from diffusers_helper.jobs.checkpoints import Checkpoints
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.presets import PresetStore
from diffusers_helper.settings import resolve_page
from diffusers_helper.ui.app_context import AppContext
folder = Path(sys.argv[1])
settings = resolve_page({"output_dir": str(folder)}, {}, folder / "none.json")
checkpoints = Checkpoints(lambda name: find_checkpoint(name, folder), "pocket", folder / "chosen.json")
queue, presets = JobQueue(folder, checkpoints.get), PresetStore(folder / "p")
context = AppContext(queue, settings, checkpoints, presets, (), lambda: 0.0)
build_page(context), launch_options(context), render(context, "ja")
print([name for name in ("torch", "diffusers", "transformers") if name in sys.modules])
"""


def components(blocks: gr.Blocks) -> dict[str, dict[str, Any]]:
    """What the browser is told of each component that has an id."""
    told = blocks.get_config_file()["components"]
    return {one["props"]["elem_id"]: one["props"] for one in told if one["props"].get("elem_id")}


def test_building_the_page_imports_no_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_builds_in_every_language(stage: Stage, language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = translation.Translator
    monkeypatch.setattr("diffusers_helper.ui.app.Translator", lambda: plain(language))
    shown = components(build_page(stage.context))
    assert shown["start"]["value"] == Texts(language)("generate.start")
    assert shown["field-steps"]["label"] == Texts(language)("generate.steps")


def test_only_the_five_endpoints_are_public(stage: Stage) -> None:
    blocks = build_page(stage.context)
    assert set(blocks.get_api_info()["named_endpoints"]) == {f"/{name}" for name in PUBLIC}


def test_the_same_words_are_in_every_language_s_update(stage: Stage) -> None:
    t = stage.page.t
    assert len(t.updates("ja")) == len(t.components)


def test_a_page_that_opens_is_told_no_words_that_it_has() -> None:
    t = translation.Translator()
    t(gr.Button, "generate.start")
    t(gr.Dropdown, "generate.checkpoint", lambda: ["one", "two"])
    assert t.opening("en") == [gr.skip(), t.updates("en")[1]]
    assert t.opening("ja") == t.updates("ja")


def test_nothing_is_fetched_from_elsewhere(stage: Stage) -> None:
    options = launch_options(stage.context)
    stylesheets = options["theme"]._stylesheets
    assert not stylesheets
    assert not re.search(r"https?://|@import|url\(", options["css"] + options["head"])


def test_the_script_speaks_the_same_languages() -> None:
    script = (HERE / "page.js").read_text(encoding="utf-8")
    assert f"const LANGUAGES = [{', '.join(repr(language) for language in LANGUAGES)}];" in script
    assert LANGUAGES[0] == "en"


def test_every_live_place_has_a_fragment(stage: Stage) -> None:
    from diffusers_helper.ui.fragments import render

    blocks = build_page(stage.context)
    values = [str(getattr(block, "value", "")) for block in blocks.blocks.values()]
    places = {place for value in values for place in re.findall(r'data-live="(\w+)"', value)}
    assert {"job", "video", "sections", "steps", "preview", "stop", "queue", "history", "disk", "warnings"} <= places
    assert places <= set(render(stage.context, "en"))


def test_a_level_sets_its_knobs_and_custom_none() -> None:
    assert generate_tab._knobs_of("fast") == list(generate_tab.LEVELS["fast"].values())
    assert generate_tab._knobs_of("custom") == [gr.skip()] * 3


def test_the_form_s_fields_are_all_on_the_page(stage: Stage) -> None:
    shown = components(build_page(stage.context))
    places = {"picture", "pictures", "prompt", "seconds", "loras"}
    assert {f"field-{name}" for name in NAMES if name not in places} | places <= set(shown)


def test_no_click_and_no_choice_is_dropped_while_another_is_under_way(stage: Stage) -> None:
    """Buttons that share an event are each heard; of a choice the newest counts. Gradio's default drops both."""
    config = build_page(stage.context).get_config_file()
    kinds = {one["id"]: one["type"] for one in config["components"]}
    modes: dict[str, set[str]] = {"input": set(), "command": set()}
    for dependency in config["dependencies"]:
        for target, event in dependency["targets"]:
            command = dependency["queue"] and (kinds.get(target), event) == ("html", "click")
            modes.get("command" if command else event, set()).add(dependency["trigger_mode"])
    assert modes == {"input": {"always_last"}, "command": {"multiple"}}


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        pytest.param("js", r"^  (?:async )?function (\w+\(.*?\) {\n.*?)^  }", id="function"),
        pytest.param("css", r"^([.#\w][^{}]*) {", id="rule"),
    ],
)
def test_nothing_of_the_page_stands_in_two_files(kind: str, named: str) -> None:
    """Of two scripts' functions or two sheets' rules, one would be changed and the other forgotten."""
    found = [
        name
        for file in HERE.glob(f"*.{kind}")
        for name in set(re.findall(named, file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    ]
    assert found
    assert {name for name in found if found.count(name) > 1} == set()
