"""The bench of step caches: its rows are requests, its measures are right, its picture is drawn from its table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bench.caches import REQUESTS, Made, likeness, lines, psnr, rows
from diffusers_helper.caches.table import STEP_CACHES
from diffusers_helper.request import Recipe


def test_every_method_is_measured_at_three_strengths() -> None:
    asked = [Recipe.parse({"steps": 25, **row}).step_cache for row in rows().values()]
    for name in STEP_CACHES:
        of_method = [option for option in asked if option and option.name == name]
        assert len(of_method) >= 3
        assert len(set(map(str, of_method))) == len(of_method)


def test_two_kinds_of_one_to_three_seconds_are_made() -> None:
    assert len(REQUESTS) == 5
    assert {request["kind"] for request in REQUESTS} == {"f1", "framepack"}
    assert {request["seconds"] for request in REQUESTS} == {1.0, 2.0, 3.0}


def frames(value: int) -> np.ndarray:
    return np.full((2, 8, 8, 3), value, np.uint8)


@pytest.mark.parametrize(("off_by", "expected"), [(0, 100.0), (1, 48.13), (10, 28.13), (100, 8.13)])
def test_psnr(off_by: int, expected: float) -> None:
    assert psnr(frames(100)[0], frames(100 + off_by)[0]) == pytest.approx(expected, abs=0.01)


def test_every_frame_of_every_clip_is_compared() -> None:
    made = [Made(1.0, {}, [frames(100), frames(value)]) for value in (100, 110)]
    alike = list(likeness(made[0], made[1]))
    assert len(alike) == 4
    assert [round(pair[0], 2) for pair in alike] == [100.0, 100.0, 28.13, 28.13]
    assert alike[0][1] == pytest.approx(1.0)
    assert not math.isclose(alike[2][1], 1.0)


def test_a_line_for_each_method_with_a_forecast_and_without() -> None:
    def row(times_faster: float, psnr_db: float) -> dict[str, Any]:
        return {"times_faster": times_faster, "psnr_db": psnr_db}

    table = {"12 steps": row(2, 30), "teacache 0.2": row(3, 30), "teacache 0.1": row(2, 35), "auto fast": row(9, 9)}
    table |= {"teacache 0.1 forecast": row(2, 45), "magcache 0.1 3 gate forecast": row(1, 1)}
    assert lines(table, "times_faster") == {
        ("steps", False): [(2, 30)],
        ("teacache", False): [(2, 35), (3, 30)],
        ("teacache", True): [(2, 45)],
    }
