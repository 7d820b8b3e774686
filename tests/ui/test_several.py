"""The page while several jobs run: one is on the stage, all are marked, and the time shown is that of the one seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_helper.events import Cancelled, Started, Step
from diffusers_helper.ui import fragments
from diffusers_helper.ui.fragments_queue import Wish
from diffusers_helper.words import LANGUAGES, Texts, plain

from .stage import Stage, make_stage
from .test_fragments_queue import Seen

FIRST, SECOND, WAITING = 1, 2, 3


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Two jobs run, on two executors, and one waits."""
    stage = make_stage(tmp_path)
    for prompt, executor in (("a", "gpu 0"), ("b", "gpu 1"), ("c", "")):
        job = stage.add(prompt).id
        if executor:
            stage.queue.claim(executor)
            stage.queue.record(job, Started(folder=str(tmp_path / prompt), seed=job, sections_done=0))
            step = {"section": 1, "sections": 2, "step": 1, "steps": 2, "computed": True}
            stage.queue.record(job, Step(**step, seconds_left=10.0 * job))
    return stage


def seen(stage: Stage, part: str, show: int = 0, language: str = "en") -> Seen:
    return Seen(fragments.render(stage.context, language, Wish(show=show))[part])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_queue_marks_each_with_its_executor(stage: Stage, language: str) -> None:
    text = seen(stage, "queue", language=language).text
    for name in ("gpu 0", "gpu 1"):
        assert Texts(language)("queue.executor", executor=name) in text
    stops = [button for button in seen(stage, "queue").all("button") if button.get("data-act") == "stop"]
    assert [stop["data-job"] for stop in stops] == ["1"] * 3 + ["2"] * 3


def test_the_only_one_is_not_marked(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    stage.add("a")
    stage.queue.claim()
    assert "<span>on " not in fragments.render(stage.context, "en")["queue"]
    stage.queue.end(1, Cancelled(folder=""), "cancelled")
    stage.add("b")
    stage.queue.claim("cpu")
    assert "<span>on cpu" in fragments.render(stage.context, "en")["queue"]


@pytest.mark.parametrize(("wanted", "shown"), [(0, FIRST), (FIRST, FIRST), (SECOND, SECOND), (WAITING, WAITING)])
def test_the_stage_shows_the_one_that_is_wanted_else_the_first_begun(stage: Stage, wanted: int, shown: int) -> None:
    assert Texts("en")("job.title", job=shown) in seen(stage, "job", wanted).text


@pytest.mark.parametrize(("wanted", "timed"), [(0, FIRST), (SECOND, SECOND), (WAITING, FIRST)])
def test_the_clock_is_that_of_the_one_on_the_stage_where_it_runs(stage: Stage, wanted: int, timed: int) -> None:
    told = fragments.state(stage.context, "en", Wish(show=wanted))
    assert (told["clock"]["job"], told["running"]) == (timed, True)
    assert told["clock"]["ready_at"] == stage.queue.job(timed).ready_at is not None
    chips = fragments.render(stage.context, "en", Wish(show=wanted))["others"].split("<a ")[1:]
    assert [chip.count('data-clock="percent"') for chip in chips[:2]] == [timed == FIRST, timed == SECOND]


def test_each_can_be_brought_onto_the_stage(stage: Stage) -> None:
    assert [chip["data-wish"] for chip in seen(stage, "others").all("a")] == ["show=1", "show=2"]
    cards = seen(stage, "recent").all("button")
    assert [card["data-wish"] for card in cards] == ["show=", "show=2"]
    assert [card.get("aria-current") for card in cards] == ["true", None]
    assert [card.get("aria-current") for card in seen(stage, "recent", SECOND).all("button")] == [None, "true"]


def test_a_queue_of_which_one_is_halted_can_be_paused_and_resumed(stage: Stage) -> None:
    for name in ("gpu 0", "gpu 1"):
        stage.queue.employ(name)
    assert seen(stage, "queue").acts() == ["pause"]
    stage.queue.halt("gpu 1", plain("why <it> begins no more"))
    assert seen(stage, "queue").acts() == ["pause", "unpause"]
    assert "why <it> begins no more" in seen(stage, "queue").text
    stage.queue.halt("gpu 0", plain("why"))
    assert seen(stage, "queue").acts() == ["unpause"]
