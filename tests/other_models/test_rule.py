"""The nine rows, the steps that they skip, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from diffusers_helper.errors import UnusableArgument, UnusableInput
from diffusers_helper.other_models import PRESETS
from diffusers_helper.other_models.presets import preset_named
from diffusers_helper.other_models.rule import plan
from tests.conftest import ROOT

ROWS = {
    "FLUX": (0.24, 0.1, 5),
    "FLUX-Kontext": (0.05, 0.2, 4),
    "Chroma": (0.10, 0.25, 2),
    "HunyuanVideo-T2V": (0.24, 0.2, 6),
    "Wan2.1-T2V-1.3B": (0.12, 0.2, 4),
    "Wan2.1-T2V-14B": (0.24, 0.2, 6),
    "Wan2.1-I2V-480P-14B": (0.24, 0.2, 6),
    "Wan2.1-I2V-720P-14B": (0.24, 0.2, 6),
    "Wan2.1-VACE-1.3B": (0.02, 0.2, 3),
}
"""Threshold, retention ratio, K: the table of ComfyUI-MagCache, in its order."""
TABLES = {
    "FLUX": (1, 28, 1.21094, 0.89062),
    "FLUX-Kontext": (1, 20, 1.21875, 0.88672),
    "Chroma": (2, 26, 1.00781, 1.0625),
    "HunyuanVideo-T2V": (1, 50, 1.0754, 0.75456),
    "Wan2.1-T2V-1.3B": (2, 50, 1.0124, 0.81838),
    "Wan2.1-T2V-14B": (2, 50, 1.02504, 0.86111),
    "Wan2.1-I2V-480P-14B": (2, 40, 0.98783, 0.92617),
    "Wan2.1-I2V-720P-14B": (2, 40, 0.99428, 0.8679),
    "Wan2.1-VACE-1.3B": (2, 50, 1.00129, 0.80141),
}
"""Lists, steps, and the second and the last ratio of the first list."""
PUBLISHED = {
    "FLUX": "CC.C..C...CC.....C.....C..C.",
    "FLUX-Kontext": "CCCC.C.C..CC....C..C",
    "Chroma": "CCCCCC.C..C..C..C..C..C.C.",
    "HunyuanVideo-T2V": "CCCCCCCCCC....C...C....C.....C....C......C....C.CC",
    "Wan2.1-T2V-1.3B": "CCCCCCCCCC....C....C....C....C....C...C..C..C.C.CC",
    "Wan2.1-T2V-14B": "CCCCCCCCCC......C......C......C.....C....C..C..C.C",
    "Wan2.1-I2V-480P-14B": "CCCCCCCC......C.....C....C....C...C..C.C",
    "Wan2.1-I2V-720P-14B": "CCCCCCCC......C......C.....C....C..C..C.",
    "Wan2.1-VACE-1.3B": "CCCCCCCCCC...C...C...C..C..C..C..C.C.C.C.CCCCCCCCC",
}
"""What the published rule does at the steps of its table; three of them end with a skipped step."""


def published(name: str, ratios: tuple[float, ...], steps: int, *, strictly: bool) -> str:
    """ComfyUI-MagCache's rule, written anew from its description: nothing of the package but the numbers of the list.

    From step int(retention * steps) on, the product of the ratios and the sum of its distance from 1 run until the sum
    passes the threshold or K is passed. FLUX computes ratio 11 and lets both run on.
    """
    threshold, retention, k = ROWS[name]
    product, error, skipped, made = 1.0, 0.0, 0, ""
    for step in range(steps):
        index = step if steps == len(ratios) else math.floor(step * (len(ratios) - 1) / (steps - 1) + 1e-9)
        skips = False
        if step >= int(steps * retention) and not (index == 11 and name.startswith("FLUX")):
            product, skipped = product * ratios[index], skipped + 1
            error += abs(1 - product)
            skips = (error < threshold if strictly else error <= threshold) and skipped <= k
            if not skips:
                product, error, skipped = 1.0, 0.0, 0
        made += "." if skips else "C"
    return made


def test_the_rows_are_those_of_the_published_table() -> None:
    assert {name: (row.threshold, row.retention_ratio, row.k) for name, row in PRESETS.items()} == ROWS


@pytest.mark.parametrize("name", ROWS)
def test_the_lists_have_their_lengths_and_ends(name: str) -> None:
    lists = PRESETS[name].ratios
    assert (len(lists), len(lists[0]), lists[0][1], lists[0][-1]) == TABLES[name]
    assert all(each[0] == 1.0 and len(each) == len(lists[0]) for each in lists)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("strictly", [True, False])
def test_the_steps_are_the_published_ones_and_the_last_is_computed(name: str, strictly: bool) -> None:
    """Models differ in "below" and "at most" the threshold; none of them meets it exactly."""
    for branch, ratios in enumerate(PRESETS[name].ratios):
        assert published(name, ratios, len(ratios), strictly=strictly) == PUBLISHED[name]
        assert plan(PRESETS[name], len(ratios)).pattern(branch) == PUBLISHED[name][:-1] + "C"


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("steps", [2, 10, 20, 28, 33, 50, 60])
def test_another_number_of_steps_reads_the_list_as_published(name: str, steps: int) -> None:
    for branch, ratios in enumerate(PRESETS[name].ratios):
        made = plan(PRESETS[name], steps).pattern(branch)
        assert made[1:-1] == published(name, ratios, steps, strictly=True)[1:-1]
        assert (made[0], made[-1]) == ("C", "C")


def test_what_is_read_for_other_steps_is_told() -> None:
    assert plan(PRESETS["FLUX"], 28).notes == ()
    (note,) = plan(PRESETS["FLUX"], 20).notes
    assert "28 ratios" in note
    assert "for 20" in note
    assert plan(PRESETS["FLUX"], 4, ratios=[1.0, 2.0, 3.0]).ratios == ((1.0, 1.0, 2.0, 3.0),)


def test_flux_goes_on_with_its_sums_over_the_step_that_it_always_computes() -> None:
    """The two skipped steps before it count for K after it."""
    made = plan(PRESETS["FLUX"], 28, threshold=9.0, k=5, ratios=[1.0] * 28).pattern()
    assert made == "CC.....C...C..C.....C.....CC"


@pytest.mark.parametrize(("given", "computed"), [({"threshold": 0}, 28), ({"k": 0}, 28), ({"retention_ratio": 1}, 28)])
def test_off_is_every_step(given: dict[str, Any], computed: int) -> None:
    off = plan(PRESETS["FLUX"], 28, **given)
    assert off.pattern().count("C") == computed
    assert not off.skips


def test_lower_is_slower() -> None:
    computed = [plan(PRESETS["FLUX"], 28, threshold=each).pattern().count("C") for each in (0.02, 0.06, 0.12, 0.24)]
    assert computed == sorted(computed, reverse=True)
    assert computed[0] > computed[-1]


def test_ratios_replace_the_rows_and_are_one_for_both_branches_or_one_each() -> None:
    row = PRESETS["Wan2.1-T2V-1.3B"]
    both = plan(row, 3, ratios="1.0, 1.5, 0.5")
    assert both.ratios == ((1.0, 1.5, 0.5),)
    assert both.pattern(0) == both.pattern(1)
    assert plan(row, 3, ratios=(1, 2, 3), uncond_ratios=[3, 2, 1]).ratios == ((1, 2, 3), (3, 2, 1))
    assert plan(row, 50, uncond_ratios=[1.0] * 50).ratios[0] == row.ratios[0]


@pytest.mark.parametrize("name", ["flux", "FLUX", "Flux_Kontext", "wan2.1_i2v_480p_14B", "WAN2.1 VACE 1.3B"])
def test_names_need_no_capitals_and_signs(name: str) -> None:
    assert preset_named(name).name in ROWS


@pytest.mark.parametrize("name", ["sdxl", "", "wan"])
def test_an_unknown_preset_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(UnusableArgument) as caught:
        preset_named(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in ROWS)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, UnusableInput)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"k": -1}, "k is -1"),
        ({"k": 2.5}, "k is 2.5"),
        ({"k": True}, "k is True"),
        ({"retention_ratio": 1.01}, "retention_ratio is 1.01; it must be a number from 0 to 1"),
        ({"retention_ratio": -0.1}, "retention_ratio is -0.1"),
        ({"threshold": -0.1}, "threshold is -0.1; it must be a number from 0"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"threshold": "much"}, "threshold is 'much'"),
        ({"ratios": [1.0, math.nan]}, "ratios: number 2, nan"),
        ({"ratios": [1.0, 1.0, -1.0]}, "ratios: number 3, -1.0"),
        ({"ratios": "1.0,x"}, "ratios: number 2, 'x'"),
        ({"ratios": [1.0, None]}, "ratios: number 2, None"),
        ({"ratios": [0.0]}, "ratios: number 1, 0.0"),
        ({"ratios": []}, "ratios is empty"),
        ({"ratios": ""}, "ratios: number 1, ''"),
        ({"uncond_ratios": [1.0] * 49 + [math.inf]}, "uncond_ratios: number 50, inf"),
        ({"ratios": [1.0] * 3, "uncond_ratios": [1.0] * 4}, "3 and 4 numbers"),
    ],
)
def test_bad_values_are_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableArgument) as caught:
        plan(PRESETS["Wan2.1-T2V-1.3B"], 50, **given)
    assert said in str(caught.value)


@pytest.mark.parametrize("steps", [0, -1, 2.0])
def test_a_run_has_steps(steps: Any) -> None:
    with pytest.raises(UnusableArgument, match="num_inference_steps"):
        plan(PRESETS["FLUX"], steps)


def test_a_single_step_is_computed() -> None:
    assert plan(PRESETS["FLUX"], 1).pattern() == "C"


def test_the_documents_rows_are_the_presets() -> None:
    text = (ROOT / "OPTIMIZATIONS.md").read_text(encoding="utf-8")
    for row in PRESETS.values():
        steps = len(row.ratios[0])
        computed = plan(row, steps).pattern().count("C")
        settings = f"{row.threshold} | {row.retention_ratio} | {row.k} | {steps} steps | {computed} |"
        assert f"| `{row.name}` | `{row.transformer}` | {settings}" in text
