"""The request refuses what it cannot mean, naming the field, the value and the remedy; and it survives JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_helper.errors import InvalidRequest, Problem
from diffusers_helper.request import SEED_MAX, Request

GOOD = {"picture": "photo.png"}


def test_defaults_are_the_promised_ones() -> None:
    assert Request.parse(GOOD).model_dump() == {
        "schema_version": 4,
        "prompts": ({"text": "", "from_second": 0.0},),
        "negative_prompt": "",
        "seed": 31337,
        "seconds": 5.0,
        "steps": 25,
        "distilled_guidance": 10.0,
        "real_cfg": 1.0,
        "cfg_rescale": 0.0,
        "latent_window": 9,
        "rope_scaling_factor": 1.0,
        "rope_scaling_timestep_threshold": 400.0,
        "kind": {"name": "framepack"},
        "step_cache": {"name": "auto", "strength": "balanced"},
        "output": {"name": "mp4", "crf": 16, "pixels": "8bit"},
        "loras": (),
        "size": None,
        "decoding": "lean",
        "lora_mode": "auto",
        "fps": 30,
        "preserved_memory_gb": 6.0,
        "pictures": ({"role": "start", "path": "photo.png", "at_second": None, "mask": None},),
        "video": None,
    }


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("seed", -1, SEED_MAX),
        ("seconds", 1, 120),
        ("steps", 1, 100),
        ("distilled_guidance", 1, 32),
        ("real_cfg", 1, 32),
        ("cfg_rescale", 0, 1),
        ("latent_window", 1, 64),
        ("rope_scaling_factor", 0.1, 10),
        ("rope_scaling_timestep_threshold", 0, 1000),
        ("teacache_threshold", 0, 1),
        ("mp4_crf", 0, 100),
        ("preserved_memory_gb", 6, 128),
    ],
)
def test_ranges_include_their_ends_and_nothing_beyond(field: str, low: int, high: int) -> None:
    for value in (low, high):
        assert Request.parse({**GOOD, field: value}).flat()[field] == value
    for value in (low - 1, high + 1):
        with pytest.raises(InvalidRequest) as refusal:
            Request.parse({**GOOD, field: value})
        message = str(refusal.value)
        assert message.startswith(f"{field}: {value} ")
        assert str(low) in message
        assert str(high) in message


@pytest.mark.parametrize("field", ["seconds", "distilled_guidance", "real_cfg", "cfg_rescale", "preserved_memory_gb"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e308, "5", None, [1], True])
def test_what_is_no_number_in_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=field):
        Request.parse({**GOOD, field: value})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "picture: is missing"),
        ({"picture": ""}, "picture"),
        ({**GOOD, "colour": 1}, "colour: is not a field of a request"),
        ({**GOOD, "kind": "f2"}, "'framepack' or 'f1' or"),
        ({**GOOD, "prompt": "x" * 100_000}, "prompt: 'xxx"),
        ({**GOOD, "prompt": 7}, "prompt: 7"),
        ({**GOOD, "seed": 2**63}, "seed"),
        ({**GOOD, "steps": 2.5}, "steps"),
        ({**GOOD, "size": "640"}, "size"),
        ({**GOOD, "size": "../../etc"}, "size"),
        ({**GOOD, "schema_version": 5}, "schema_version"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Request.parse(fields)
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, Problem("picture", "missing")),
        ({**GOOD, "steps": 0}, Problem("steps", "whole_number", 0, {"low": 1, "high": 100})),
        ({**GOOD, "seconds": None}, Problem("seconds", "number", None, {"low": 1, "high": 120})),
        ({**GOOD, "prompt": "x" * 10_001}, Problem("prompt", "too_long", "x" * 10_001, {"most": 10_000})),
        ({**GOOD, "size": "big"}, Problem("size", "other", "big", {})),
        ({**GOOD, "colour": 1}, Problem("colour", "other", 1, {})),
    ],
)
def test_what_is_wrong_is_told_as_data_too(fields: dict[str, Any], problem: Problem) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Request.parse(fields)
    assert refusal.value.problems == (problem,)


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Request.parse({**GOOD, "steps": 0, "seconds": -1})
    assert {line.split(":")[0] for line in str(refusal.value).splitlines()} == {"steps", "seconds"}


@given(st.text(max_size=200), st.integers(0, SEED_MAX), st.floats(1, 120))
def test_json_round_trip(prompt: str, seed: int, seconds: float) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return
    request = Request.parse({**GOOD, "prompt": prompt, "seed": seed, "seconds": seconds})
    assert Request.from_json(request.to_json()) == request


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "NaN"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Request.from_json(text)


def test_a_seed_is_drawn_once_and_kept() -> None:
    drawn = Request.parse({**GOOD, "seed": -1}).with_seed()
    assert 0 <= drawn.seed <= SEED_MAX
    assert drawn.with_seed() == drawn
    assert Request.parse(GOOD).with_seed().seed == 31337


def test_metadata_names_no_path_and_makes_the_request_again() -> None:
    request = Request.parse({"picture": "/home/somebody/private.png", "prompt": "a", "steps": 7})
    stored = json.loads(json.dumps(request.recipe.model_dump()))
    assert "private" not in json.dumps(stored)
    assert Request.parse({**stored, "picture": request.shown_picture}) == request
