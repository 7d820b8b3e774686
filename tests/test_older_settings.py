"""Other names for a knob: each changes the one value that rooms see, by a rule, and what does not count is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper import settings
from diffusers_helper.errors import InvalidRequest, InvalidSetting
from diffusers_helper.limits import LEAST_PRESERVED_GB, MOST_PRESERVED_GB
from diffusers_helper.memory.costs import Constraints
from diffusers_helper.memory.units import GB
from diffusers_helper.request import Recipe
from diffusers_helper.settings.older import OlderNames

BY_NAME = {knob.name: knob for knob in settings.KNOBS}
OLDER = [each.name for each in fields(OlderNames)]

each_way = pytest.mark.parametrize("way", ["flag", "variable", "file"])


def resolved(folder: Path, way: str, given: Mapping[str, Any]) -> settings.Settings:
    """The settings where this is said as flags, as variables, or in the settings file."""
    file = folder / "settings.json"
    file.write_text(json.dumps(given if way == "file" else {}))
    variables = {BY_NAME[name].variable: str(value) for name, value in given.items()}
    return settings.resolve(given if way == "flag" else {}, variables if way == "variable" else {}, file)


def values(chosen: settings.Settings) -> dict[str, Any]:
    """What rooms see."""
    return {"quantise": chosen.weights.quantise, **vars(chosen.kernels), **vars(chosen.sampling)}


@each_way
@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"fp8_scaled": 1}, "quantise", "fp8"),
        ({"use_bnb": 1}, "quantise", "bnb8"),
        ({"bnb_load_in_4bit": 1}, "quantise", "bnb4"),
        ({"use_bnb": 1, "bnb_load_in_4bit": 1}, "quantise", "bnb4"),
        ({"xformers_mode": "standard"}, "attention", "xformers"),
        ({"xformers_mode": "aggressive"}, "attention", "cutlass"),
        ({"compile": 1, "fast_start": 1}, "compile", False),
        ({"enable_fbcache": 1}, "default_step_cache", "first_block"),
        ({"enable_sim_cache": 1}, "default_step_cache", "seacache"),
        ({"enable_fbcache": 1, "disable_fbcache": 1, "enable_sim_cache": 1}, "default_step_cache", "seacache"),
    ],
)
def test_an_older_name_changes_the_one_value(
    given: dict[str, Any], name: str, value: Any, way: str, tmp_path: Path
) -> None:
    known = {key: text for key, text in given.items() if key not in OLDER}
    before, after = (values(resolved(tmp_path, way, one)) for one in (known, given))
    assert before[name] != value
    assert after == {**before, name: value}


@each_way
@pytest.mark.parametrize("name", [name for name in OLDER if name != "enable_kv_cache"])
def test_it_is_shown_as_it_was_given(name: str, way: str, tmp_path: Path) -> None:
    given, text = ("standard", "standard") if name == "xformers_mode" else (1, "True")
    chosen = resolved(tmp_path, way, {name: given})
    origin = {"flag": "flag", "variable": "environment", "file": "settings file"}[way]
    assert (name, text, origin) in chosen.rows()
    shown = dict.fromkeys(BY_NAME, "default") | {name: origin}
    assert {row[0]: row[2] for row in chosen.rows()} == shown, "no other value is told to have been given"
    assert [row[0] for row in chosen.rows()] == list(BY_NAME)


def test_a_process_without_flags_has_the_same_older_names(tmp_path: Path) -> None:
    flags = {"bnb_load_in_4bit": "1", "xformers_mode": "aggressive", "compile": "1", "fast_start": "1"}
    chosen = resolved(tmp_path, "flag", flags)
    same = settings.resolve({}, chosen.from_flags, tmp_path / "none.json")
    assert (same.weights, same.kernels, same.notices) == (chosen.weights, chosen.kernels, chosen.notices)
    assert same.weights.quantise == "bnb4"


def test_no_group_holds_an_older_name() -> None:
    chosen = settings.resolve_page({}, {}, Path("nowhere.json"))
    without_page = (chosen.paths, chosen.network, chosen.log, chosen.sampling, chosen.kernels, chosen.weights)
    held = [name for group in (*without_page, chosen.memory, chosen.decoders, chosen.page) for name in vars(group)]
    assert sorted([*held, *OLDER]) == sorted(knob.name for knob in settings.PAGE_KNOBS)


@each_way
@pytest.mark.parametrize(
    ("given", "seen", "notices"),
    [
        (
            {"quantise": "int8", "fp8_scaled": 1, "use_bnb": 1},
            {"quantise": "int8"},
            [
                "--quantise int8 goes before --fp8-scaled, which has no effect.",
                "--quantise int8 goes before FRAMEPACK_USE_BNB, which has no effect.",
            ],
        ),
        ({"quantise": "fp8", "fp8_scaled": 1}, {"quantise": "fp8"}, []),
        ({"quantise": "bnb4", "use_bnb": 1, "bnb_load_in_4bit": 1}, {"quantise": "bnb4"}, []),
        (
            {"fp8_scaled": 1, "bnb_load_in_4bit": 1},
            {"quantise": "fp8"},
            ["--fp8-scaled goes before FRAMEPACK_BNB_LOAD_IN_4BIT, which has no effect."],
        ),
        (
            {"bnb_load_in_4bit": 1},
            {"quantise": "bnb4"},
            ["FRAMEPACK_BNB_LOAD_IN_4BIT asks for bitsandbytes also without FRAMEPACK_USE_BNB."],
        ),
        (
            {"quantise": "bnb8", "use_memory_v2": 1},
            {"quantise": "bnb8"},
            ["Weights packed by bitsandbytes stay on the GPU: --use-memory-v2 has nothing to swap."],
        ),
        ({"use_memory_v2": 1}, {"quantise": "auto"}, []),
        (
            {"use_bnb": 1, "bnb_cpu_offload": 1},
            {"quantise": "bnb8"},
            ["FRAMEPACK_BNB_CPU_OFFLOAD has no effect: only bitsandbytes' 4-bit weights can leave the GPU."],
        ),
        (
            {"attention": "sage", "xformers_mode": "standard"},
            {"attention": "sage"},
            ["--attention sage goes before --xformers-mode standard, which has no effect."],
        ),
        ({"attention": "xformers", "xformers_mode": "aggressive"}, {"attention": "cutlass"}, []),
        (
            {"compile": 1, "fast_start": 1},
            {"compile": False},
            ["--fast-start goes before --compile: the blocks are not compiled."],
        ),
        ({"fast_start": 1}, {"compile": False}, []),
        ({"enable_fbcache": 1, "disable_fbcache": 1}, {"default_step_cache": ""}, []),
        ({"enable_sim_cache": 1, "disable_sim_cache": 1}, {"default_step_cache": ""}, []),
        ({"enable_kv_cache": 1, "disable_kv_cache": 1}, {"default_step_cache": ""}, []),
        (
            {"enable_fbcache": 1, "enable_sim_cache": 1},
            {"default_step_cache": "first_block"},
            ["FRAMEPACK_ENABLE_FBCACHE goes before FRAMEPACK_ENABLE_SIM_CACHE, which has no effect."],
        ),
        (
            {"default_step_cache": "off", "enable_fbcache": 1},
            {"default_step_cache": "off"},
            ["--default-step-cache off goes before FRAMEPACK_ENABLE_FBCACHE, which has no effect."],
        ),
        (
            {
                "use_bnb": 1, "bnb_load_in_4bit": 1, "bnb_cpu_offload": 1, "xformers_mode": "standard", "fast_start": 1,
                "use_memory_v2": 1,
            },
            {"quantise": "bnb4", "attention": "xformers", "compile": False},
            ["Weights packed by bitsandbytes stay on the GPU: --use-memory-v2 has nothing to swap."],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_which_counts_is_a_rule_and_the_others_are_told(
    given: dict[str, Any], seen: dict[str, Any], notices: list[str], way: str, tmp_path: Path
) -> None:
    chosen = resolved(tmp_path, way, given)
    assert {name: values(chosen)[name] for name in seen} == seen
    assert list(map(str, chosen.every_notice())) == notices


@each_way
def test_a_switch_that_could_not_be_honest_is_refused_with_the_reason(way: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"those of an earlier step would be wrong.*--disable-kv-cache"):
        resolved(tmp_path, way, {"enable_kv_cache": 1})


@pytest.mark.parametrize("cache", ["fbcache", "sim_cache", "kv_cache"])
def test_a_flag_that_disables_goes_before_the_environment(cache: str) -> None:
    environment = {f"FRAMEPACK_ENABLE_{cache.upper()}": "1"}
    chosen = settings.resolve({f"disable_{cache}": "1"}, environment, Path("none.json"))
    assert chosen.sampling.default_step_cache == ""


def test_the_rule_asks_what_is_said_not_where() -> None:
    """A variable that says --quantise goes before a flag that is an older name of it."""
    chosen = settings.resolve({"fp8_scaled": 1}, {"FRAMEPACK_QUANTISE": "int8"}, Path("nowhere.json"))
    assert chosen.weights.quantise == "int8"
    assert "--quantise int8 goes before --fp8-scaled" in str(chosen.notices["quantise"][0])


def test_a_knob_that_is_off_lets_a_lower_source_say_nothing(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"use_bnb": True}))
    assert settings.resolve({}, {"FRAMEPACK_USE_BNB": "0"}, file).weights.quantise == "auto"


@pytest.mark.parametrize("gb", [LEAST_PRESERVED_GB - 0.5, LEAST_PRESERVED_GB, MOST_PRESERVED_GB, MOST_PRESERVED_GB + 1])
def test_settings_and_requests_share_the_bounds_of_what_is_left_free(gb: float) -> None:
    if LEAST_PRESERVED_GB <= gb <= MOST_PRESERVED_GB:
        assert settings.resolve({"least_preserved_gb": gb}, {}, Path("none.json")).memory.least_preserved_gb == gb
        assert Recipe.parse({"preserved_memory_gb": gb}).preserved_memory_gb == gb
        return
    with pytest.raises(InvalidSetting, match="from 6 to 128"):
        settings.resolve({"least_preserved_gb": gb}, {}, Path("none.json"))
    with pytest.raises(InvalidRequest, match="preserved_memory_gb"):
        Recipe.parse({"preserved_memory_gb": gb})


def test_what_is_left_free_by_default_is_the_least() -> None:
    assert settings.resolve({}, {}, Path("none.json")).memory.least_preserved_gb == LEAST_PRESERVED_GB
    assert Recipe().preserved_memory_gb == LEAST_PRESERVED_GB
    assert Constraints().preserved_bytes == LEAST_PRESERVED_GB * GB
