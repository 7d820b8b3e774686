"""Three languages with the same keys and the same places for values, and components that change among them."""

from __future__ import annotations

import ast
import json

import gradio as gr
import pytest

from diffusers_helper.ui.translation import Translator, wording
from diffusers_helper.words.texts import FOLDER, LANGUAGES, Texts

from .reading import TABS, places, texts_of

PACKAGE = FOLDER.parent.parent


def test_every_language_has_the_same_tabs() -> None:
    assert {folder.name for folder in FOLDER.iterdir()} == set(LANGUAGES)
    for language in LANGUAGES:
        assert sorted(file.name for file in (FOLDER / language).iterdir()) == TABS


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_every_language_has_the_same_keys_and_places(language: str, tab: str) -> None:
    english, other = texts_of("en", tab), texts_of(language, tab)
    assert list(other) == list(english)
    assert {key: places(text) for key, text in other.items()} == {key: places(text) for key, text in english.items()}


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_empty_or_named_by_its_key_twice(language: str, tab: str) -> None:
    assert all(text.strip() for key, text in texts_of(language, tab).items() if not key.startswith("between_"))
    pairs = json.loads((FOLDER / language / tab).read_text(encoding="utf-8"), object_pairs_hook=list)
    assert len({key for key, _ in pairs}) == len(pairs)


def test_every_key_that_the_code_names_is_there() -> None:
    tabs = {tab.removesuffix(".json") for tab in TABS}
    known = Texts("en")
    for file in (PACKAGE / "ui").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                tab, dot, name = node.value.partition(".")
                if (
                    tab in tabs
                    and dot
                    and name.isidentifier()
                    and name not in ("js", "css", "mp4", "png")
                    and not name.endswith("_")
                ):
                    assert node.value in known, f"{file.name} names {node.value}"


def test_an_unknown_language_is_english() -> None:
    assert Texts("xx").language == "en"
    assert Texts("xx")("generate.start") == Texts("en")("generate.start")


def test_values_take_their_places() -> None:
    assert Texts("en")("generate.queued", job=7, place=3) == "Job 7 is number 3 in the queue."


def test_a_number_takes_its_noun_with_it() -> None:
    texts = Texts("en")
    assert texts("job.stop_now_keeps", count=1) == "keeps 1 finished section as a video"
    assert texts("job.stop_now_keeps", count=2) == "keeps 2 finished sections as a video"


def test_a_component_takes_label_info_placeholder_and_choices_from_its_key() -> None:
    words = wording(gr.Radio, "generate.output", ("gif", "other"), Texts("en"))
    assert words == {
        "label": Texts("en")("generate.output"),
        "info": Texts("en")("generate.output_info"),
        "choices": [(Texts("en")("generate.output_choice_gif"), "gif"), ("other", "other")],
    }
    assert "placeholder" in wording(gr.Textbox, "generate.prompt", None, Texts("ja"))
    assert wording(gr.Button, "generate.start", None, Texts("ja")) == {"value": Texts("ja")("generate.start")}


def test_switching_the_language_changes_words_and_no_values() -> None:
    t = Translator("en")
    with gr.Blocks():
        t(gr.Textbox, "generate.seed", value="7")
        t(gr.Button, "generate.start")
    seed, start = t.updates("ja")
    assert seed["label"] == Texts("ja")("generate.seed")
    assert "value" not in seed
    assert start["value"] == Texts("ja")("generate.start")
    assert len(t.components) == 2
