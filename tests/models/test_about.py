"""What a checkpoint says of itself: read, bounded, refused where it makes no sense, and no part of what it is."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import UnusableCheckpoint
from diffusers_helper.models.about import About, describe_large
from diffusers_helper.models.table import CHECKPOINTS, Checkpoint, find_checkpoint
from diffusers_helper.preparation import defaults
from diffusers_helper.request import Recipe
from diffusers_helper.words import LANGUAGES

KNOWN = {name: known for name, known in CHECKPOINTS.items() if known.sources}


@pytest.fixture(scope="module")
def copy(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(pocket, tmp_path_factory.mktemp("about") / "copy"))


def told(copy: Path, about: Any) -> Checkpoint:
    """The copy once it says this of itself."""
    (copy / "framepack.json").write_text(json.dumps({"about": about}), encoding="utf-8")
    return find_checkpoint(str(copy), copy)


def test_what_is_said_is_there_in_each_language_and_falls_back_to_english(copy: Path) -> None:
    about = told(copy, {"title": "A model.", "purpose": {"en": "It pans.", "ja": "パンします。"}}).about
    assert about.sentences() == "A model. It pans."
    assert about.sentences("ja") == "A model. パンします。"
    assert told(copy, {}).about == About()


def test_a_request_that_names_no_length_gets_the_checkpoints(copy: Path) -> None:
    checkpoint = told(copy, {"default_seconds": 2.4})
    assert defaults(checkpoint) == {"kind": "framepack", "seconds": 2.4}
    assert Recipe.parse({}, defaults(checkpoint)).seconds == 2.4
    said = {"seconds": 9.0, "kind": "f1"}
    assert Recipe.parse(said, defaults(checkpoint)) == Recipe.parse(said)
    assert defaults(told(copy, {})) == {"kind": "framepack"}


def test_it_is_no_part_of_the_fingerprint_so_that_old_videos_go_on(copy: Path) -> None:
    assert told(copy, {"title": "one"}).fingerprint() == told(copy, {"title": "two"}).fingerprint()


@pytest.mark.parametrize(
    ("about", "where"),
    [
        ({"default_seconds": "5"}, "about.default_seconds"),
        ({"default_seconds": 0}, "about.default_seconds"),
        ({"default_seconds": 121}, "about.default_seconds"),
        ({"good_up_to_seconds": True}, "about.good_up_to_seconds"),
        ({"good_up_to_seconds": 1e400}, "about.good_up_to_seconds"),
        ({"title": 5}, "about.title"),
        ({"title": "x" * 301}, "about.title"),
        ({"title": " "}, "about.title"),
        ({"title": "red\x1b[31m"}, "about.title"),
        ({"title": "two\nlines"}, "about.title"),
        ({"title": "turned \u202eround"}, "about.title"),
        ({"title": {"ja": "モデル"}}, "about.title"),
        ({"title": {"en": "x", "<b>": "x"}}, "about.title"),
        ({"examples": ["x"] * 13}, "about.examples"),
        ({"examples": "x"}, "about.examples"),
        ([], "about"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(copy: Path, about: Any, where: str) -> None:
    with pytest.raises(UnusableCheckpoint, match=rf"framepack\.json is damaged: {where}"):
        told(copy, about)


GREY = [0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"kinds": []}, "kinds"),
        ({"kinds": ["f2"]}, "kinds.0"),
        ({"kinds": ["f1", "f1"]}, "kinds"),
        ({"buckets": []}, "buckets"),
        ({"buckets": [[64, 64], [100, 64]]}, "buckets.1.0"),
        ({"buckets": [[16, 33]]}, "buckets.0.1"),
        ({"buckets": [[0, 64]]}, "buckets.0.0"),
        ({"latent_rgb_bias": GREY}, "the file"),
        ({"latent_rgb_bias": GREY, "latent_rgb_factors": [GREY]}, "latent_rgb_factors"),
        ({"latent_rgb_bias": GREY, "latent_rgb_factors": [GREY] * 17}, "latent_rgb_factors"),
        ({"latent_rgb_bias": GREY, "latent_rgb_factors": [*[GREY] * 15, [0, 0, math.nan]]}, "latent_rgb_factors.15.2"),
        ({"latent_rgb_bias": [0, math.inf, 0], "latent_rgb_factors": [GREY] * 16}, "latent_rgb_bias.1"),
        ({"steps_per_frame": math.nan}, "steps_per_frame"),
    ],
)
def test_so_is_the_rest_of_the_file(copy: Path, wrong: Any, where: str) -> None:
    (copy / "framepack.json").write_text(json.dumps(wrong))
    with pytest.raises(UnusableCheckpoint, match=rf"framepack\.json is damaged: {where}: "):
        find_checkpoint(str(copy), copy)


def test_a_preview_map_of_all_channels_is_taken(copy: Path) -> None:
    (copy / "framepack.json").write_text(json.dumps({"latent_rgb_bias": GREY, "latent_rgb_factors": [GREY] * 16}))
    assert find_checkpoint(str(copy), copy).latent_rgb == ((tuple(GREY),) * 16, tuple(GREY))


def test_keys_of_later_versions_are_left_alone(copy: Path) -> None:
    assert told(copy, {"title": "A model.", "colour": "green"}).about.sentences() == "A model."


@pytest.mark.parametrize("name", KNOWN)
def test_the_large_ones_are_described_too(name: str) -> None:
    described = describe_large(name)
    assert described.kinds == {"framepack": ("framepack", "one_frame"), "framepack-f1": ("f1",)}[name]
    assert described.about.examples


@pytest.mark.parametrize("about", [describe_large(name).about for name in KNOWN], ids=list(KNOWN))
def test_ours_speak_every_language_of_the_page(about: About, pocket: Path) -> None:
    for one in (about, find_checkpoint("pocket", pocket).about):
        for words in (one.title, one.purpose, one.limits, *one.examples):
            assert words is not None
            assert set(words) == set(LANGUAGES)
