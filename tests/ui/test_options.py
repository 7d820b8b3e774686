"""Choices of the form with parameters of their own: only the chosen option's are in sight, and only they refuse."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
import pytest

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.request.output import OUTPUTS, Webp
from diffusers_helper.ui import generate_tab
from diffusers_helper.ui.form import NAMES, Form
from diffusers_helper.ui.look_ahead import look_ahead
from diffusers_helper.ui.options import CACHE, CHOICES, OF_OPTION, OUTPUT, options_of, style
from diffusers_helper.ui.speed import PAIRS, cache_in_words, published_pair
from diffusers_helper.words import LANGUAGES, Texts

from .stage import Stage, answer, make_stage
from .test_form import stage, values

__all__ = ["stage"]


@pytest.fixture(scope="module")
def whole_form(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, Form]:
    """The form as the page places it, on a stage of its own."""
    stage = make_stage(tmp_path_factory.mktemp("whole"))
    with stage.page.blocks:
        return stage, generate_tab.build(stage.page)


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [(choice, option) for choice in CHOICES for option in options_of(choice)] + [(CACHE, "off"), (OUTPUT, "gif")],
)
def test_of_all_options_only_the_chosen_one_is_in_sight(
    whole_form: tuple[Stage, Form], choice: str, chosen: str
) -> None:
    _, form = whole_form
    kept = [rule for rule in style().splitlines() if f'#field-{choice} [value="{chosen}"]:checked' not in rule]
    away = {rule.split("#of-")[1].split()[0] for rule in kept if f"#field-{choice} " in rule}
    assert set(options_of(choice)) - away == ({chosen} if chosen in options_of(choice) else set())
    assert {form.places.columns[place].elem_id for place in OF_OPTION.values()} == {
        f"of-{option}" for _, option in OF_OPTION.values()
    }
    assert set(form.places.columns) == set(OF_OPTION.values())
    for name, place in OF_OPTION.items():
        assert form.places.columns[place] in ancestors(form[name]), "it goes with the place, and no gap is left"
        assert name in form.resets.fields


def ancestors(block: Any) -> list[Any]:
    found = []
    while block := block.parent:
        found.append(block)
    return found


@pytest.mark.parametrize("pair", PAIRS)
def test_a_published_pair_sets_both_of_its_fields_and_is_recognised(whole_form: tuple[Stage, Form], pair: str) -> None:
    stage, form = whole_form
    (radio,) = [one for one in stage.page.blocks.blocks.values() if one.elem_id == "magcache-pair"]
    threshold, k = answer(stage, radio, "input", {radio: pair})
    assert (threshold, k) == PAIRS[pair]
    shown = values(form, step_cache="magcache", magcache_threshold=threshold, magcache_k=k)
    told = look_ahead(form, stage.context, "en", shown)
    assert told[4]["value"] == pair
    assert published_pair({"magcache_threshold": threshold, "magcache_k": 99}) is None


def test_what_nobody_sees_refuses_nothing(stage: Stage) -> None:
    """A value of a step cache that was given up for another one stays in its field, out of sight."""
    shown = values(stage.form, step_cache="teacache", magcache_threshold=None, picture=None)
    assert json.loads(look_ahead(stage.form, stage.context, "en", shown)[0])["fields"] == {}
    shown[NAMES.index("picture")] = "/pictures/a.png"
    assert stage.form.request_of(shown).step_cache.name == "teacache"  # type: ignore[union-attr]
    shown = values(stage.form, step_cache="magcache", magcache_threshold=None)
    with pytest.raises(InvalidRequest, match=r"^magcache_threshold: "):
        stage.form.request_of(shown)
    shown = values(stage.form, output="webp", mp4_crf=None)
    assert stage.form.request_of(shown).output == Webp()
    with pytest.raises(InvalidRequest, match=r"^webp_quality: "):
        stage.form.request_of(values(stage.form, output="webp", webp_quality=101))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_step_cache_is_told_in_words(stage: Stage, language: str) -> None:
    texts = Texts(language)
    told = [cache_in_words({**stage.form.defaults, "step_cache": one}, texts) for one in ("off", *options_of(CACHE))]
    assert not {*told} & {"off", *options_of(CACHE)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_file_that_can_be_made_is_offered_in_words(stage: Stage, language: str) -> None:
    texts = Texts(language)
    offered = [value for _, value in stage.form["output"].choices]  # type: ignore[attr-defined]
    assert offered == [name for name, made in OUTPUTS.items() if made.result == "video"]
    assert all(f"generate.output_choice_{name}" in texts for name in offered)


def test_a_file_that_no_kind_of_the_page_makes_stays_out(stage: Stage) -> None:
    shown = dict(zip(NAMES, stage.form.values_of({"output": "png"}), strict=True))
    assert shown["output"] == gr.skip()
