"""Sweeps: what people write as lists, which requests come of them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.request import Request
from diffusers_helper.request.sweep import Axis, cells, check_window, read_axis, rope_batch

CONTROL = {"role": "control", "path": "a.png"}
LORAS = [{"name": name, "sha256": "0" * 64, "weight": 1.0} for name in ("a", "b")]
FLAT: dict[str, Any] = {"kind": "one_frame", "pictures": [CONTROL], "seed": 5, "loras": LORAS}


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("target_index=1,4,9", "one_frame_target_index", (1, 4, 9)),
        ("target_index=1..4", "one_frame_target_index", (1, 2, 3, 4)),
        ("one_frame_target_index= 2 , 5..7", "one_frame_target_index", (2, 5, 6, 7)),
        ("control_index=0;10,0;13", "one_frame_control_index", ("0;10", "0;13")),
        ("seed=1..9..4", "seed", (1, 5, 9)),
        ("lora_weight=0..1..0.25", "lora_weight", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("real_cfg=1..1.2..0.1", "real_cfg", (1.0, 1.1, 1.2)),
        ("latent_window_size=9,10", "latent_window", (9, 10)),
        ("one_frame_post=on,off", "one_frame_post", (True, False)),
        ("embedding=start,mean", "one_frame_embedding", ("start", "mean")),
        ("lora_weight=-1..1", "lora_weight", (-1.0, 0.0, 1.0)),
    ],
)
def test_a_list_is_read(text: str, field: str, values: tuple[Any, ...]) -> None:
    axis = read_axis(text)
    assert (axis.field, axis.values) == (field, values)
    assert [type(value) for value in axis.values] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("frames=1,2", "'frames' is nothing to go through; give one of target_index, control_index"),
        ("loras=1", "'loras' is nothing to go through"),
        ("kind=f1,framepack", "'kind' is nothing to go through"),
        ("", "'' is nothing to go through"),
        ("target_index", "target_index has no values"),
        ("target_index=,", "target_index has no values"),
        ("target_index=a", "'a' is no number"),
        ("target_index=1.5", "'1.5' has to be of whole numbers"),
        ("target_index=9..1", "'9..1' has to go up"),
        ("seed=1..1000", "'1..1000' has to go up, and through 100 values at most"),
        ("seed=1..2..0", "no number"),
        ("lora_weight=nan", "no number and no range|has to go up"),
        ("seed=1e9999", "no number|has to go up|whole"),
        ("one_frame_post=maybe", "'maybe' is none of off, on"),
    ],
)
def test_what_is_no_list_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_axis(text)
    assert any(each in str(refused.value) for each in words.split("|"))
    assert refused.value.problems[0].field == "sweep"


def test_cells_differ_in_what_is_gone_through_alone() -> None:
    axes = [read_axis("seed=1,2"), read_axis("lora_weight_2=0,0.5,1")]
    made = [Request.parse(cell) for cell in cells(FLAT, axes)]
    assert [(request.seed, request.loras[1].weight) for request in made] == [
        (seed, weight) for seed in (1, 2) for weight in (0, 0.5, 1)
    ]
    plain = {request.model_copy(update={"seed": 0, "loras": ()}).to_json() for request in made}
    assert len(plain) == 1
    assert {request.loras[0].weight for request in made} == {1.0}
    assert FLAT["loras"] == LORAS, "what was given stays"


def test_without_a_list_there_is_one() -> None:
    assert cells(FLAT, []) == [FLAT]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["seed=1..11", "target_index=1..10"], "100 pictures at most, and these are 110"),
        (["seed=1", "target_index=1", "steps=2"], "2 lists at most"),
        (["seed=1,2", "seed=3,4"], "two lists of one sweep both go through seed"),
        (["lora_weight=1,2", "lora_weight_1=0"], "both go through lora_weight"),
        (["lora_weight_3=1"], "lora_weight_3 asks for the weight of a LoRA, and there are 2 LoRAs"),
    ],
)
def test_too_much_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        cells(FLAT, [read_axis(text) for text in texts])
    assert words in str(refused.value)


def test_a_rope_batch_makes_the_window_larger_by_one_each() -> None:
    axis = rope_batch(3, 9)
    assert axis == Axis("latent_window", (9, 10, 11))
    assert [cell["latent_window"] for cell in cells(FLAT, [axis])] == [9, 10, 11]


@pytest.mark.parametrize("lies_behind", ["one_frame_post", "one_frame_history_2x", "one_frame_history_4x", None])
def test_the_window_is_refused_where_nothing_depends_on_it(lies_behind: str | None) -> None:
    off = {"one_frame_post": False, "one_frame_history_2x": False, "one_frame_history_4x": False}
    request = Request.parse({**FLAT, **off, **({lies_behind: True} if lies_behind else {})})
    if lies_behind:
        check_window(request, [rope_batch(2, 9)])
        return
    check_window(request, [read_axis("seed=1,2")])
    with pytest.raises(InvalidRequest, match="the latent window changes nothing while post, 2x and 4x are off"):
        check_window(request, [read_axis("latent_window_size=9,10")])
