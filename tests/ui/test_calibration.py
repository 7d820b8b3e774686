"""What the page shows of a calibration, and what it does with it."""

from __future__ import annotations

from typing import Any

import pytest

from diffusers_helper.caches.magcache import read_ratios
from diffusers_helper.errors import InvalidCommand
from diffusers_helper.events import Calibrated
from diffusers_helper.jobs.job import Job
from diffusers_helper.ui.calibration import calibration
from diffusers_helper.ui.commands import Commands
from diffusers_helper.words import LANGUAGES, Texts

from .stage import HOSTILE, Stage, tab_of
from .test_fragments import Parts
from .test_queue_tab import press

EN = Texts("en")
SECTIONS = [[1.0, 1.2, 0.9, 0.7], [1.0, 1.0, 0.9, 0.5]]
MEAN = [1.0, 1.1, 0.9, 0.6]


def calibrated(stage: Stage, sections: list[list[float]] | None = None, name: str = "scripted") -> Job:
    stage.add(step_cache="magcache", magcache_calibration=True)
    job = stage.queue.claim()
    assert job
    return stage.queue.record(job.id, Calibrated(checkpoint=name, sections=sections or SECTIONS, mean=MEAN))


def points(shown: Parts, kind: str) -> list[tuple[float, float]]:
    (line,) = [found["points"] for tag, found in shown.tags if tag == "polyline" and found["class"] == kind]
    pairs = [pair.split(",") for pair in (line or "").split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_the_plot_has_a_line_for_each_section_and_one_for_their_mean(stage: Stage) -> None:
    shown = Parts(calibration(calibrated(stage), EN))
    assert (shown.with_class("of-section"), shown.with_class("mean")) == (2 + 1, 1 + 1), "with the legend"
    mean = points(shown, "mean")
    assert [x for x, _ in mean] == [0.0, 33.33, 66.67, 100.0]
    assert [y for _, y in mean] == pytest.approx([28.57, 14.29, 42.86, 85.71])
    assert {y for _, y in points(shown, "same")} == {28.57}
    for words in ("4 steps, 2 sections, scripted", "with 4 steps", "1.20", "0.50"):
        assert words in shown.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_who_does_not_see_the_plot_is_told_it(stage: Stage, language: str) -> None:
    parts = Parts(calibration(calibrated(stage), Texts(language)))
    (told,) = [found["aria-label"] or "" for tag, found in parts.tags if tag == "svg" and found.get("role") == "img"]
    assert all(number in told for number in ("0.600", "1.100", "4", "2"))


def test_ratios_that_do_not_change_are_a_line_in_the_middle(stage: Stage) -> None:
    stage.add()
    job = stage.queue.claim()
    assert job
    job = stage.queue.record(job.id, Calibrated(checkpoint="x", sections=[[1.0]], mean=[1.0]))
    assert points(Parts(calibration(job, EN)), "mean") == [(0.0, 50.0)]


def test_the_mean_can_be_copied_as_the_form_takes_it(stage: Stage) -> None:
    parts = Parts(calibration(calibrated(stage), EN))
    (copied,) = [found["data-copy"] for _, found in parts.tags if found.get("data-copy")]
    assert copied == "1.00000, 1.10000, 0.90000, 0.60000"
    assert list(read_ratios(copied)) == MEAN


def test_what_a_checkpoint_is_called_is_only_text(stage: Stage) -> None:
    parts = Parts(calibration(calibrated(stage, name=HOSTILE), EN))
    assert not [tag for tag, _ in parts.tags if tag == "img"]
    assert HOSTILE in parts.text


def test_without_a_calibration_there_is_nothing(stage: Stage) -> None:
    assert calibration(stage.ended(), EN) == ""


def test_use_chooses_magcache_with_the_ratios_that_are_kept(stage: Stage) -> None:
    job = calibrated(stage)
    answer: list[Any] = press(Commands(stage.page, stage.form), "use_ratios", job.id)
    filled = {"step_cache": "magcache", "magcache_calibration": False, "magcache_mag_ratios": ""}
    assert stage.filled(answer[1:]) == filled
    assert tab_of(answer) == "generate"


def test_use_of_a_job_that_has_measured_nothing_is_refused(stage: Stage) -> None:
    with pytest.raises(InvalidCommand, match="no ratios"):
        press(Commands(stage.page, stage.form), "use_ratios", stage.add().id)
